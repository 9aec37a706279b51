#!/usr/bin/perl
# Measuring: that its parts work, not what they measure. The server that PGHOST, PGPORT ... name is asked a little.
#
#   PQPOOL_SRCDIR    the sources
#   PQPOOL_BUILDDIR  where they are built
use strict;
use warnings;
use Cwd qw(abs_path getcwd);
use File::Basename qw(dirname);
my ($srcdir, $builddir);

BEGIN {
    $srcdir = $ENV{PQPOOL_SRCDIR} // abs_path(dirname($0) . '/..');
    $builddir = $ENV{PQPOOL_BUILDDIR} // (-e "$srcdir/build/config.status" ? "$srcdir/build" : getcwd());
}
use lib "$srcdir/t/support", "$srcdir/bench/lib";
use Plots qw(draw);
use Programs;
use Test::More;

alarm 60 * (($ENV{PQPOOL_TEST_SLOW} // 1) || 1);
my $has_gnuplot = `gnuplot --version 2>/dev/null` ne '';
my $has_pgbouncer = grep { -x "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';

subtest 'the command' => sub {
    local $ENV{PQPOOL_BUILDDIR} = $builddir;
    my ($status, $out, $err) = run_program("$srcdir/bench/run", '--list');
    is($status, 0, '--list succeeds') or diag($err);
    my @lines = split /\n/, $out;
    cmp_ok(scalar @lines, '>', 2, 'it names workloads');
    is(join("\n", grep { !/^\S+\s+\S/ } @lines), '', 'each with what it is about');
    ($status, $out, $err) = run_program("$srcdir/bench/run", 'wiating');
    is($status, 2, 'an unknown workload is wrong usage');
    like($err, qr/wiating.*--list/s, 'and named, with the way out');
    ($status, $out, $err) = run_program("$srcdir/bench/run", '--colour');
    is($status, 2, 'an unknown option is, too');
};

# Asked where nothing is installed: where something is, its program would be built now.
subtest 'peers that are not here' => sub {
    my $code = 'printf "%s: %s\n", @$_{qw(name how)} for Peers::missing(shift)';
    local $ENV{PATH} = $dir;
    my ($status, $out, $err) = run_program($^X, "-I$srcdir/bench/lib", '-MPeers', '-e', $code, $dir);
    is($status, 0, 'are told') or diag($err);
    my @lines = split /\n/, $out;
    is(join(' ', grep { $_ ne 'PgBouncer' } map { /^(.*?): / } @lines), 'libzdb pgxpool postgres.js pg-pool', 'by their names');
    is(join("\n", grep { !/: .*(?:apt-get install \S|npm ci --prefix bench\/peers|does not build: see)/ } @lines),
        '', 'each with a command that gets it, or where to look');
    like($out, qr/^libzdb: apt-get install libzdb-dev/m, 'libzdb is a package');
    like($out, qr/^pgxpool: apt-get install golang-go/m, 'Go is');
    like($out, qr/^postgres\.js: .*nodejs npm.*npm ci --prefix bench\/peers/m, 'and node comes before npm ci');
};

# Results as bench/run writes them: one sample for each round.
sub write_results {
    my ($name, @rows) = @_;
    open my $out, '>', "$dir/$name.csv" or die "$dir/$name.csv: $!";
    print $out "measure,contender,axis,at,unit,round,value\n";
    for my $row (@rows) {
        my ($round, @fields) = (0, @$row);
        print $out join(',', @fields[0 .. 4], ++$round, $fields[5] * $_) . "\n" for 0.9, 1, 1.2;
    }
    close $out or die;
}

# The names of the contenders that a plot shows.
sub is_drawn {
    my ($name, @contenders) = @_;
    my $svg = slurp("$dir/$name.svg");
    like($svg, qr/<svg\b.*<\/svg>/s, "$name is drawn");
    is(join(', ', grep { index($svg, ">$_<") < 0 } @contenders), '', 'and names the contenders');
    like($svg, qr/<path\b/, 'and has lines');
}

SKIP: {
    skip 'gnuplot is not installed', 1 unless $has_gnuplot;
    subtest 'plots' => sub {
        write_results('W13', map { my $n = $_; map { ['throughput', $_, 'threads', $n, 'statements/s', 1000 * $n] } qw(shared leased) }
            1, 16, 256);
        write_results('W3', ['throughput', 'shared', 'connections', 1, 'statements/s', 1e5],
            ['throughput', '"raw, pipelined"', '', '', 'statements/s', 1e5],
            map { ['throughput', 'leased', 'connections', $_, 'statements/s', 3e4] } 4, 64);
        write_results('W4', map { ['throughput', 'postgres.js', 'round trip', $_, 'statements/s', 1e4 / (1 + $_)] } 0, 1, 50);
        write_results('W12', map { ["latency $_", "it's shared_with sleepers", '', '', 'ms', 1] } qw(p50 p99 max));
        write_results('W5', ['throughput', 'nobody draws this', '', '', 'statements/s', 1]);
        my $done = draw($dir);
        is("@{ $done->{remarks} }", '', 'nothing is remarked upon');
        is(scalar @{ $done->{files} }, 4, 'there is one for each of these results');
        is_drawn('throughput_over_threads', 'shared', 'leased');
        is_drawn('throughput_over_pool_size', 'shared', 'leased', 'raw, pipelined');
        is_drawn('throughput_over_round_trip', 'postgres.js');
        is_drawn('latency_with_slow_statements', "it's shared_with sleepers");
    };
}

subtest 'plots without gnuplot' => sub {
    local $ENV{PATH} = "$dir/nowhere";
    my $done = draw($dir);
    is(scalar @{ $done->{files} }, 0, 'are not drawn');
    like("@{ $done->{remarks} }", qr/gnuplot is not installed/, 'which is said');
};

SKIP: {
    skip 'pgbouncer is not installed', 1 unless $has_pgbouncer;
    subtest 'a PgBouncer in between' => sub {
        my @with = ("$srcdir/bench/with-pgbouncer", 'default_pool_size=2');
        my @psql = qw(psql -XAtq);
        my ($status, $out, $err) = run_program(@with, @psql, '-c', 'select 6 * 7');
        is($status, 0, 'the command succeeds') or diag($err);
        is($out, "42\n", 'and reaches the server');
        ($status, $out) = run_program(@with, @psql, '-d', 'pgbouncer', '-c', 'show config');
        like($out, qr/^default_pool_size\|2\b/m, 'through a PgBouncer with the settings given');
        like($out, qr/^pool_mode\|transaction\b/m, 'which pools transactions');
        ($status, $out) = run_program(@with, 'sh', '-c', 'echo $PGHOST; exit 7');
        is($status, 7, q{the command's exit status is kept});
        chomp $out;
        like($out, qr{^/.*pqpool-pgbouncer}, 'it has a directory of its own');
        ok(!-e $out, 'which is gone afterwards');
        ($status, $out, $err) = run_program($with[0], 'pool_bogus=1', 'true');
        is($status, 1, 'an unknown setting is an error');
        like($err, qr/unknown parameter.*pool_bogus/s, q{told in PgBouncer's words});
    };
}

done_testing();
