# Servers: throw-away servers, each started once, when it is first needed, and kept until the end.
package Servers;
use strict;
use warnings;
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use POSIX qw(_exit WNOHANG);
use Exporter qw(import);
our @EXPORT_OK = qw(server_environment stop_servers server_version);

# With room for the most threads that have a connection each. Nothing is cleaned up while it is measured.
my @common = map { ('-c', $_) } qw(max_connections=400 autovacuum=off shared_buffers=256MB max_wal_size=4GB);

my %kinds = (
    # Loaded with the table that is read.
    accounts => { options => [@common], load => 'accounts.sql' },
    # What it commits is durable.
    durable => { options => ['-d', @common] },
);

my %running;

# The environment by which a program finds the server of that kind.
sub server_environment {
    my ($srcdir, $kind) = @_;
    if (!$running{$kind}) {
        my $server = start("$srcdir/t/with-pg", $kinds{$kind} // die "no such server: $kind\n");
        $running{$kind} = $server;
    }
    return $running{$kind}{environment};
}

my @told = qw(PGHOST PGPORT PGUSER PGDATABASE PQPOOL_PG_LOG PQPOOL_PG_DATA PQPOOL_TEST_SERVER PATH);

# What with-pg runs writes down where the server is, and lasts as long as its standard input.
sub start {
    my ($with_pg, $kind) = @_;
    my $dir = tempdir(CLEANUP => 1);
    my $script = join('', map { qq(echo "\$$_" >>"\$1.new"; ) } @told) . 'mv "$1.new" "$1"; cat >/dev/null';
    pipe my $theirs, my $ours or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    if ($pid == 0) {
        open STDIN, '<&', $theirs or die "stdin: $!\n";
        open STDOUT, '>&', \*STDERR or die "stdout: $!\n";
        exec $with_pg, @{ $kind->{options} }, 'sh', '-c', $script, 'sh', "$dir/where" or die "$with_pg: $!\n";
    }
    close $theirs;
    my $server = { pid => $pid, until => $ours };
    $server->{environment} = wait_for($server, "$dir/where");
    ask($server->{environment}, contents(dirname(__FILE__) . "/../$kind->{load}")) if $kind->{load};
    return $server;
}

sub contents {
    my ($path) = @_;
    open my $in, '<', $path or die "$path: $!\n";
    local $/;
    return <$in>;
}

sub wait_for {
    my ($server, $path) = @_;
    for (1 .. 600) {
        if (open my $in, '<', $path) {
            chomp(my @values = <$in>);
            my %environment;
            @environment{@told} = @values;
            return \%environment;
        }
        waitpid($server->{pid}, WNOHANG) == 0 or die "the server does not start\n";
        select undef, undef, undef, 0.1;
    }
    die "the server does not start within a minute\n";
}

# Runs SQL; returns what it prints.
sub ask {
    my ($environment, $sql) = @_;
    local %ENV = (%ENV, %$environment);
    my $pid = open(my $out, '-|') // die "fork: $!\n";
    if ($pid == 0) {
        open my $in, '|-', 'psql', qw(-X -q -A -t -v ON_ERROR_STOP=1) or die "psql: $!\n";
        print $in $sql;
        _exit(close($in) ? 0 : 1);
    }
    my $text = join '', <$out>;
    close $out or die "psql fails: $sql\n";
    return $text;
}

sub server_version {
    my ($version) = ask((values %running)[0]{environment}, 'show server_version') =~ /(.*)/ if %running;
    return $version // 'not started';
}

sub stop_servers {
    for my $server (values %running) {
        close $server->{until};
        waitpid $server->{pid}, 0;
    }
    %running = ();
}

1;
