#!/usr/bin/perl
# The command and the examples, run as a user runs them, against the server that PGHOST, PGPORT ... name.
#
#   PQPOOL_COMMAND   the command (./pqpool)
#   PQPOOL_EXAMPLES  the directory of the examples (./examples)
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/support";
use POSIX qw(:sys_wait_h);
use Programs;
use Test::More;

my $command = $ENV{PQPOOL_COMMAND} // './pqpool';
my $examples = $ENV{PQPOOL_EXAMPLES} // './examples';
my $slow = ($ENV{PQPOOL_TEST_SLOW} // 1) || 1;
alarm 180 * $slow;

# The schemas and connections that a demo or an example would leave behind.
sub left_behind {
    my (undef, $out) = run_program('psql', '-XAtq', '-c',
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'pqpool\\_demo\\_%' OR nspname LIKE 'article\\_list\\_%'");
    return $out;
}

my @modes = qw(serial parallel transaction shared shared-auto);
my $users = 4;

sub check_figures {
    my ($rtt) = @_;
    my ($status, $out, $err) = run_program($command, 'demo', '--users', $users, '--seconds', 0.3, '--rtt', $rtt,
        '--statements', 3, '--format', 'tsv');
    is($status, 0, "the demo succeeds with a round trip of $rtt ms");
    is($err, '', 'it has nothing to complain about');
    my ($header, @rows) = split /\n/, $out;
    is($header,
        join("\t", qw(mode rtt_ms statements users connections_peak requests_per_s p50_ms p99_ms errors)),
        'the header is as documented');
    my %row = map { my @f = split /\t/; ($f[0] => \@f) } @rows;
    is(join(' ', map { (split /\t/)[0] } @rows), "@modes", 'each mode has one row, in order');
    is(scalar(grep { @{ $row{$_} // [] } == 9 } @modes), 5, 'each row has nine columns') or return;
    is(join(' ', map { "@{$row{$_}}[1..3]" } @modes), join(' ', ("$rtt 3 $users") x 5), 'they tell what was asked for');
    is(join(' ', map { $row{$_}[8] } @modes), '0 0 0 0 0', 'every answer was right');
    is(scalar(grep { $row{$_}[5] > 0 && $row{$_}[6] > 0 && $row{$_}[7] >= $row{$_}[6] } @modes),
        5, 'the rates and times are plausible');
    is($row{shared}[4], 1, 'all users together share one connection');
    cmp_ok($row{serial}[4], '<=', $users, 'one lease at a time takes one connection per user at most');
    cmp_ok($row{parallel}[4], '>', $row{shared}[4], 'a lease for each parallel statement takes more');
    cmp_ok($row{shared}[6], '>=', 2 * $rtt, 'two round trips are the least a shared request takes');
    is(left_behind(), '', 'the schema is gone');
}

check_figures($_) for 0, 1;

subtest 'B2: sixteen users' => sub {
    my ($status, $out) = run_program($command, 'demo', '--users', 16, '--seconds', 0.3, '--rtt', 0, '--format', 'tsv');
    is($status, 0, 'the demo succeeds');
    for my $statements (3, 5) {
        my %peak = map { my @f = split /\t/; $f[2] eq $statements ? ($f[0] => $f[4]) : () } split /\n/, $out;
        is($peak{shared}, 1, "1 + $statements statements of 16 users, shared: one connection");
        is($peak{parallel}, 10, 'a lease for each: all the pool may open');
        is($peak{transaction}, 10, 'a transaction for each user: the same');
    }
};

subtest 'the table says what it means' => sub {
    my ($status, $out, $err) = run_program($command, 'demo', '--users', 2, '--seconds', 0.2, '--rtt', 0,
        '--statements', 12);
    is($status, 0, 'the demo succeeds') or diag($err);
    like($out, qr/^mode\s+rtt_ms\s+statements\s+users\s+connections\s/m, 'it has the columns');
    like($out, qr/^shared\s+0\s+12\s+2\s+1\s/m, 'and the rows');
    like($out, qr/\A(?:The machine was busy[^\n]*\n(?:[^\n]+\n)*?)?2 users, 1 \+ 5 \+ 1 \+ 5 statements, directly at the server: sharing took 1/,
        'first the verdict, and whether the machine was too busy for one');
    is(join("\n", grep { length > 80 } split /\n/, $out), '', 'no line is wider than 80 columns');
    like($out, qr/What that means\n\n2 users, 1 \+ 5 \+ 1 \+ 5 statements/, 'and then words');
};

for ([TERM => 15], [INT => 2]) {
    my ($signal, $number) = @$_;
    subtest "a demo that is interrupted by SIG$signal cleans up" => sub {
    my $pid = fork() // die "fork: $!";
    if ($pid == 0) {
        open STDOUT, '>', "$dir/out" or die;
        open STDERR, '>', "$dir/interrupted" or die;
        $SIG{INT} = "DEFAULT";
        exec $command, 'demo', '--seconds', 60 or die;
    }
    for (1 .. 200 * $slow) {
        last if left_behind() ne '';
        select undef, undef, undef, 0.05;
    }
    isnt(left_behind(), '', 'it is at work');
    kill $signal, $pid;
    waitpid $pid, 0;
    is($? & 127, $number, 'it ends by that signal, as its caller is to see');
    is(left_behind(), '', 'the schema is gone');
    like(slurp("$dir/interrupted"), qr/stopped by signal $number/, 'it says why');
    };
}

subtest 'pool options in the connection string' => sub {
    my ($status, $out, $err) = run_program($command, 'demo', '--users', 4, '--seconds', 0.2, '--rtt', 0,
        '--statements', 3, '--format', 'tsv', 'application_name=mine pool_max_size=2');
    is($status, 0, 'they are taken') or diag($err);
    my ($parallel) = $out =~ /^parallel\t.*?\t.*?\t.*?\t(\d+)/m;
    is($parallel, 2, 'and in force');
};

for (
    [['demo', '--users', '0'], qr/--users 0/],
    [['demo', '--users', '65'], qr/--users 65: must be .* 1 to 64/],
    [['demo', '--users', '4x'], qr/--users 4x/],
    [['demo', '--seconds', '0'], qr/--seconds 0/],
    [['demo', '--seconds', 'nan'], qr/--seconds nan/],
    [['demo', '--rounds', '0'], qr/--rounds 0: must be .* 1 to 99/],
    [['demo', '--rtt=-1'], qr/--rtt -1/],
    [['demo', '--rtt'], qr/--rtt needs a value/],
    [['demo', '--statements', '4'], qr/--statements 4: must be 3, 5 or 12/],
    [['demo', '--format', 'xml'], qr/--format xml/],
    [['demo', '--colour'], qr/unknown option --colour/],
    [['demo', '-x'], qr/unknown option -x/],
    [['demo', 'dbname=a', 'dbname=b'], qr/dbname=b/],
    [['demo', 'pool_bogus=1'], qr/bogus/],
    [['dmeo'], qr/unknown subcommand dmeo; see pqpool --help/],
    [['--colour'], qr/unknown option --colour/],
    [[], qr/Usage/])
{
    my ($argv, $words) = @$_;
    my ($status, $out, $err) = run_program($command, @$argv);
    is($status, 2, "'pqpool @$argv' is wrong usage");
    like($err, $words, 'the message names it');
    is($out, '', 'stdout stays clean');
}

for ([['--help'], qr/^Usage: pqpool demo/], [['demo', '--help'], qr/--statements/], [['--version'], qr/^pqpool \d+\.\d+/]) {
    my ($argv, $words) = @$_;
    my ($status, $out) = run_program($command, @$argv);
    is($status, 0, "'pqpool @$argv' succeeds");
    like($out, $words, 'and prints what was asked for');
}

{
    my ($status, $out, $err) = run_program($command, 'demo', '--format', 'tsv', "host=$dir port=1");
    is($status, 1, 'a server that cannot be reached is an error');
    like($err, qr/cannot connect: .*\Q$dir\E.*No such file/s, q{told in libpq's words});
    is($out, '', 'and no figures');
}

subtest 'the server has too little room' => sub {
    my ($status, $out, $err) = run_program($command, 'demo', '--rtt', 0, 'pool_max_size=100000');
    ($status, $out, $err) = run_program($command, 'demo', '--rtt', 0, 'pool_max_size=1000') if $status == 2;
    is($status, 1, 'is an error');
    like($err, qr/are needed in all: raise max_connections, or add pool_max_size=\d+/, 'with the way out');
    is(left_behind(), '', 'no schema is left');
};

subtest 'example first_steps' => sub {
    my ($status, $out, $err) = run_program("$examples/first_steps");
    is($status, 0, 'succeeds') or diag($err);
    is($out, "the answer is 42\n", 'prints the answer');
    ($status, $out, $err) = run_program("$examples/first_steps", 'pool_bogus=1');
    is($status, 1, 'fails with a wrong option');
    like($err, qr/bogus/, 'and names it');
};

subtest 'example article_list' => sub {
    my ($status, $out, $err) = run_program("$examples/article_list");
    is($status, 0, 'all ways give the same rows');
    is($err, '', 'without a complaint');
    my @rows = split /\n/, ($out =~ s/\n\n.*//sr); # words follow the table
    is(scalar @rows, 13, 'a header, and three forms in four ways');
    is(scalar(() = $out =~ /^\w+\s+shared\s+1\s/mg), 3, 'shared takes one connection for each form');
    like($out, qr/^short\s+a lease each, in parallel\s+3\s/m, 'a lease for each takes three for the short form');
    like($out, qr/^long\s+shared\s+1\s+4\s/m, 'and four round trips for twelve statements');
    is(left_behind(), '', 'the schema is gone');
};

done_testing();
