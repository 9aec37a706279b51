#!/usr/bin/perl
# The servers that tests, the demo and measurements start for themselves: nothing that the environment says about servers leads
# to another one. The server that this test runs beside stands for the user's own.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/support";
use File::Temp qw(tempdir);
use Programs;
use Test::More;

my $here = $FindBin::Bin;
my $with_pg = "$here/with-pg";
my $with_pgbouncer = "$here/../bench/with-pgbouncer";
my $slow = ($ENV{PQPOOL_TEST_SLOW} // 1) || 1;
alarm 180 * $slow;

my ($host, $port) = ($ENV{PGHOST} // '/var/run/postgresql', $ENV{PGPORT} // 5432);
open my $services, '>', "$dir/services" or die;
print $services "[theirs]\nhost=$host\nport=$port\nuser=" . ($ENV{PGUSER} // 'postgres') . "\ndbname=postgres\n";
close $services;
symlink 'services', "$dir/pg_service.conf" or die;

my %hostile = (
    PGSERVICE => 'theirs', PGSERVICEFILE => "$dir/services", PGSYSCONFDIR => $dir, PGHOSTADDR => '127.0.0.1',
    PGHOST => $host, PGPORT => $port, PGUSER => 'nobody_here', PGDATABASE => 'nothing_here', PGPASSWORD => 'x',
    PGPASSFILE => "$dir/services", PGOPTIONS => '-c search_path=theirs', PGSSLMODE => 'require', PGGSSENCMODE => 'require',
    PGREQUIREPEER => 'nobody', PGCHANNELBINDING => 'require', PGTARGETSESSIONATTRS => 'standby', PGCLIENTENCODING => 'LATIN1',
    PGDATESTYLE => 'German', PGTZ => 'Asia/Tokyo', PGAPPNAME => 'theirs', PGCONNECT_TIMEOUT => 1, PGDATA => '/nonexistent',
    PGREQUIREAUTH => 'none', PGLOADBALANCEHOSTS => 'random', PGSOMETHINGNEW => "two\nPGLINES=1",
);
my $where = q(psql -XAtqc "select current_setting('data_directory'), current_setting('search_path')");
my $told = q(echo "$PQPOOL_PG_DATA|\"\$user\", public"; ) . $where;
my $names = "$^X -e 'print join(q( ), sort grep { /^PG/ } keys %ENV), qq(\\n)'";

sub run_with {
    my ($environment, @argv) = @_;
    local %ENV = (%ENV, %$environment);
    return run_program(@argv);
}

sub landed_on_its_own {
    my ($environment, $what) = @_;
    my ($status, $out, $err) = run_with($environment, $with_pg, 'sh', '-c', "$told; $names");
    my ($wanted, $got, $variables) = split /\n/, $out;
    is($status, 0, "with-pg runs its command $what") or diag($err);
    is($got, $wanted, "a program under it reaches the private server $what");
    is($variables, 'PGDATABASE PGHOST PGPORT PGUSER', "no variable but the private server's own is left $what");
}

landed_on_its_own({ PGSERVICE => 'theirs', PGSERVICEFILE => "$dir/services" }, 'with PGSERVICE set');
landed_on_its_own(\%hostile, 'with every variable of libpq set');

{
    my ($status, $out) = run_with({ %hostile, PG_BINDIR => $ENV{PG_BINDIR} // '' }, $with_pg, 'sh', '-c',
        qq($here/../bench/server stop; export PGSERVICE=theirs PGSERVICEFILE=$dir/services PGHOSTADDR=127.0.0.1; )
            . qq($here/../bench/server start && unset PGSERVICE PGHOSTADDR && )
            . qq(for i in 1 2 3 4 5 6 7 8 9 10; do pg_isready -q && break; sleep 1; done; $told));
    my ($wanted, $got) = split /\n/, $out;
    is($got, $wanted, 'bench/server stops and starts the private server, whatever is set');
}

SKIP: {
    my $found = grep { -x "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
    skip 'PgBouncer is not installed', 2 unless $found;
    my ($status, $out, $err) = run_with(\%hostile, $with_pg, 'sh', '-c',
        qq(export PGSERVICE=theirs PGSERVICEFILE=$dir/services PGHOSTADDR=127.0.0.1 PGOPTIONS="-c search_path=theirs"; )
            . qq($with_pgbouncer $names; unset PGSERVICE PGHOSTADDR PGOPTIONS; )
            . qq($with_pgbouncer sh -c 'echo "\$PQPOOL_PG_DATA"; psql -XAtqc "show data_directory"'));
    my ($variables, $wanted, $got) = split /\n/, $out;
    is($variables, 'PGDATABASE PGHOST PGPORT PGUSER', 'with-pgbouncer leaves no variable but its own') or diag($err);
    is($got, $wanted, 'a program under it reaches the private server');
}

# ---- TMPDIR ----
my $plain = tempdir('private-XXXXXX', TMPDIR => 1, CLEANUP => 1);
chmod 0755, $plain;
for (
    ['has a space in it', "$plain/two words"],
    ['has a comma and letters beyond ASCII in it', "$plain/h\xc3\xb6rt, h\xc3\xb6rt"],
    ['has a quote and a dollar sign in it', "$plain/\"\$HOME\""],
    ['is longer than a socket\'s path may be', "$plain/" . 'long' x 30],
    ['is not there', "$plain/missing"])
{
    my ($what, $tmpdir) = @$_;
    mkdir $tmpdir unless $what =~ /not there/;
    landed_on_its_own({ TMPDIR => $tmpdir }, "where TMPDIR $what");
    is(join(' ', glob "\Q$tmpdir\E/*"), '', 'and nothing is left in it');
}
{
    my ($status, $out) = run_with({ TMPDIR => "$plain/two words" }, $with_pg, 'sh', '-c', 'echo "$PGHOST"');
    chomp $out;
    ok($out =~ m{^/tmp/} && !-e $out, 'a directory for sockets elsewhere is removed too') or diag("$out is there");
}

# ---- signals ----
sub ends_by_interrupt {
    my ($what, @argv) = @_;
    my $pid = fork() // die "fork: $!";
    if ($pid == 0) {
        setpgrp;
        $SIG{INT} = 'DEFAULT';
        open STDOUT, '>', "$dir/started" or die;
        open STDERR, '>', "$dir/err" or die;
        exec @argv or die;
    }
    for (1 .. 600 * $slow) {
        last if -s "$dir/started";
        select undef, undef, undef, 0.1;
    }
    kill INT => -$pid; # as Ctrl-C does, to all in the group
    waitpid $pid, 0;
    is($? & 127, 2, "$what ends by SIGINT when it is interrupted");
    chomp(my $server = slurp("$dir/started"));
    ok($server && !-e $server, 'and has removed its server') or diag("'$server' is there");
}
ends_by_interrupt('with-pg', $with_pg, 'sh', '-c', 'echo "$PQPOOL_PG_DATA"; exec sleep 60');
{
    my ($status) = run_program($with_pg, 'sh', '-c', 'exit 7');
    is($status, 7, q(with-pg ends with its command's status));
}

done_testing();
