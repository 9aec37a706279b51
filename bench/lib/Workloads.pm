# Workloads: what is measured, against what, and what it is to reach. A workload has
#   id, also     its name on the command line, and older ones
#   server       accounts or durable (Servers.pm), own: one for each program, '': none
#   programs     what is to be built
#   rounds, arguments   by how long it may take: short, usual, long
#   contenders   { key, name, axis, at, command, peer }: run in turn in each round; name, axis and at go to the CSV;
#                peer: what kind of somebody else's it is
#   show         measures that stand in the table; the CSV has all of them
#   ratios       { name, measure, over, under, target }: of contenders' keys, the best of each side within a round
#   counts       { name, command, against, target }: instructions by callgrind
# Targets are conditions on the median, the least or the greatest of the samples.
package Workloads;
use strict;
use warnings;
use Exporter qw(import);
our @EXPORT_OK = qw(workloads);

my ($srcdir, $builddir, $size, @peers);

my %rounds = (short => 3, usual => 5, long => 9);
my %window = (
    short => [qw(--seconds 0.25 --warm-up 0.1)],
    usual => [qw(--seconds 1 --warm-up 0.3)],
    long => [qw(--seconds 3 --warm-up 0.5)],
);

sub program { return "$builddir/bench/$_[0]" }

# A contender that is bench/load; its key is its name and place.
sub load {
    my ($manner, $name, $axis, $at, @options) = @_;
    return { key => $axis eq '' ? $name : "$name $at", name => $name, axis => $axis, at => $at,
        command => [program('load'), $manner, @options] };
}

# A peer, if it is there, under a title of ours.
sub peer_as {
    my ($name, $title, $axis, $at, @options) = @_;
    return map {
        { key => "$title $at", name => $title, axis => $axis, at => $at, peer => $_->{kind}, command => [@{ $_->{command} }, @options] }
    } grep { $_->{name} eq $name } @peers;
}

sub peer {
    my ($name, @rest) = @_;
    return peer_as($name, $name, @rest);
}

sub peers_with {
    my ($connections) = @_;
    return map { peer($_->{name}, 'connections', $connections, '--callers', 64, '--connections', $connections) } @peers;
}

# A pooler stands near the server, beyond the delay: its command begins with the wrapper that starts it.
sub with_delay {
    my ($ms, @contenders) = @_;
    for (@contenders) {
        my $after = ($_->{peer} // '') eq 'pooler' ? 1 : 0;
        splice @{ $_->{command} }, $after, 0, "$srcdir/bench/with-delay", $ms;
    }
    return @contenders;
}

sub leased {
    return map { load('leased', 'leased', 'connections', $_, '--callers', 64, '--connections', $_) } @_;
}

sub shared {
    return map { load('shared', 'shared', 'connections', $_, '--callers', 64, '--connections', $_) } @_;
}

# A workload of statements in a closed loop.
sub of_statements {
    my (%workload) = @_;
    return { server => 'accounts', programs => [qw(load)], rounds => \%rounds, arguments => \%window,
        show => ['throughput', 'latency p50', 'latency p99', 'CPU'], %workload };
}

# One whose programs say themselves what they measure, and against which targets.
sub of_programs {
    my (%workload) = @_;
    $workload{contenders} //= [ map { { key => $_, command => [program($_)] } } @{ $workload{programs} } ];
    return { server => 'accounts', rounds => \%rounds, %workload };
}

sub door {
    return of_programs(
        id => 'W1',
        about => 'acquire and release, with nobody else about',
        programs => [qw(door)],
        arguments => \%window,
        counts => [ { name => 'acquire and release', command => [qw(door count)] } ],
    );
}

sub leasing {
    return of_statements(
        id => 'W2',
        about => 'leased, 64 threads over 8 connections, in the order in which they came',
        contenders => [
            load('raw', 'raw', 'threads', 64, '--callers', 64),
            load('raw', 'raw', 'threads', 8, '--callers', 8),
            leased(8), peers_with(8),
        ],
        ratios => [
            { name => 'leased, 64 threads on 8 connections : 64 threads with one each', measure => 'throughput',
                over => ['leased 8'], under => ['raw 64'], target => 'median >= 0.9' },
            { name => 'leased, 64 threads on 8 connections : 8 threads with one each', measure => 'throughput',
                over => ['leased 8'], under => ['raw 8'] },
            { name => 'leased : libzdb, 64 threads on 8 connections', measure => 'throughput',
                over => ['leased 8'], under => ['libzdb 8'], target => 'median >= 8' },
        ],
    );
}

sub sharing {
    my @sizes = (4, 8, 16, 32, 64);
    return of_statements(
        id => 'W3',
        about => 'shared, 64 threads on one connection, no round trip added',
        contenders => [
            leased(@sizes), shared(1), load('pipeline', 'pipeline', 'connections', 1, '--in-flight', 64),
            peer('postgres.js', 'connections', 1, '--callers', 64, '--connections', 1),
        ],
        ratios => [
            { name => 'shared : the best leased pool', measure => 'throughput', over => ['shared 1'],
                under => [ map { "leased $_" } @sizes ], target => 'median >= 2' },
            { name => 'shared : a pipeline by hand', measure => 'throughput', over => ['shared 1'],
                under => ['pipeline 1'], target => 'median >= 0.97' },
        ],
    );
}

# Each way at one round trip.
sub ways_from_afar {
    my ($ms) = @_;
    my @at = ('round trip', $ms);
    my $ours = sub {
        my ($manner, $connections) = @_;
        return load($manner, "$connections $manner", @at, '--callers', 64, '--connections', $connections);
    };
    my @ways = (
        $ours->('raw', 64), $ours->('leased', 4), $ours->('leased', 64), $ours->('shared', 1), $ours->('shared', 4),
        peer_as('postgres.js', 'postgres.js on 1', @at, '--callers', 64, '--connections', 1),
        map { peer_as($_->{name}, "$_->{name} on 8", @at, '--callers', 64, '--connections', 8) } @peers);
    return $ms > 0 ? with_delay($ms, @ways) : @ways;
}

sub sharing_from_afar {
    return of_statements(
        id => 'W4',
        about => '64 threads, with a round trip of 1 ms' . ($size eq 'short' ? '' : ', and without, and of 10 ms'),
        contenders => [ map { ways_from_afar($_) } $size eq 'short' ? 1 : (0, 1, 10) ],
        ratios => [
            { name => '1 ms: 4 shared : 4 leased', measure => 'throughput', over => ['4 shared 1'], under => ['4 leased 1'],
                target => 'median >= 12' },
            { name => '1 ms: 1 shared : 64 leased', measure => 'throughput', over => ['1 shared 1'],
                under => ['64 leased 1'], target => 'median >= 1.9' },
            { name => '1 ms: 1 shared : postgres.js on one connection', measure => 'throughput', over => ['1 shared 1'],
                under => ['postgres.js on 1 1'], target => 'median >= 1.4' },
        ],
    );
}

sub tickets {
    return of_statements(
        id => 'W5',
        about => 'one thread, 64 tickets in flight, one connection',
        contenders => [
            load('tickets', 'tickets', '', '', '--in-flight', 64), load('pipeline', 'pipeline', '', '', '--in-flight', 64),
        ],
        ratios => [
            { name => 'tickets : a pipeline by hand', measure => 'throughput', over => ['tickets'], under => ['pipeline'],
                target => 'median >= 0.97' },
        ],
        counts => [
            { name => 'tickets', command => [qw(load tickets --in-flight 64 --operations 10000)],
                target => 'median <= 600' },
        ],
    );
}

sub groups {
    my $at = sub {
        my ($ms, @way) = @_;
        return { key => "group $ms", name => 'requests', axis => 'round trip', at => $ms,
            command => [@way, program('group')] };
    };
    return of_programs(
        id => 'W6',
        about => 'the parallel statements of one request as a group, and on as many leased connections',
        programs => [qw(group)],
        arguments => \%window,
        contenders => [ $at->(0), map { with_delay($_, $at->($_)) } 1, 50 ],
        remarks => ['One backend runs the members of a group one after another; leased connections run them in parallel.'],
    );
}

sub callbacks {
    my @in_flight = (64, 256);
    return of_statements(
        id => 'W7',
        about => 'an event loop: callbacks by epoll on pqpool_fd(), one connection',
        contenders => [
            map {
                my $n = $_;
                map { load($_, $_, 'in flight', $n, '--in-flight', $n) } qw(loop handloop)
            } @in_flight
        ],
        ratios => [
            map {
                { name => "callbacks : epoll and libpq by hand, $_ in flight", measure => 'throughput',
                    over => ["loop $_"], under => ["handloop $_"], target => 'median >= 0.95' }
            } @in_flight
        ],
    );
}

sub growth {
    return of_programs(
        id => 'W8', also => [qw(waiting books)],
        about => 'one waiter more, with 10 to 10 000 waiting; one lease, in a pool of 1 to 1000 connections',
        programs => [qw(waiting books)],
        rounds => { short => 1, usual => 5, long => 5 },
        counts => [
            (map {
                my $manner = $_;
                { name => "$manner, 10 waiting", command => ['waiting', $manner, 10] },
                    { name => "$manner, 10000 waiting", command => ['waiting', $manner, 10_000],
                        against => "$manner, 10 waiting" }
            } qw(callbacks tickets)),
            (map {
                my $manner = $_;
                { name => "$manner, 1 connections", command => ['books', $manner, 1] },
                    { name => "$manner, 1000 connections", command => ['books', $manner, 1000],
                        against => "$manner, 1 connections" }
            } qw(idle leased)),
        ],
    );
}

sub inserts {
    my @options = qw(--callers 64 --inserts);
    my $with = sub { my ($manner, $n) = @_; load($manner, $manner, 'connections', $n, @options, '--connections', $n) };
    return of_statements(
        id => 'W9',
        about => 'durable inserts of one row, 64 threads',
        server => 'durable',
        contenders => [ $with->('raw', 64), $with->('leased', 4), $with->('leased', 64), $with->('shared', 1), $with->('shared', 4) ],
        ratios => [
            { name => '4 shared : 4 leased', measure => 'throughput', over => ['shared 4'], under => ['leased 4'],
                target => 'median >= 1.1' },
            { name => '4 shared : 1 shared', measure => 'throughput', over => ['shared 4'], under => ['shared 1'],
                target => 'median >= 1.8' },
            { name => '4 shared : 64 leased', measure => 'throughput', over => ['shared 4'], under => ['leased 64'],
                target => 'median >= 0.5' },
        ],
    );
}

sub batches {
    return of_programs(
        id => 'W10',
        about => 'many rows by the same INSERT, with a round trip of 1 ms',
        programs => [qw(batch)],
        arguments => {
            short => [qw(--rows 10000 --seconds 0.25)],
            usual => [qw(--rows 100000 --seconds 1)],
            long => [qw(--rows 100000 --seconds 3)],
        },
        contenders => [ with_delay(1, { key => 'batch', command => [program('batch')] }) ],
    );
}

sub memory {
    return of_programs(
        id => 'W11',
        about => 'memory of the library: for idle connections, for statements in flight, and asked for meanwhile',
        programs => [qw(holding)],
    );
}

sub sleepers {
    my @sleepers = ('--sleepers', 1);
    my @shared = map {
        my @options = ('--callers', 64, '--connections', $_, '--pool', 'pool_max_size=10');
        (load('shared', "shared_max=$_", '', '', @options),
            load('shared', "shared_max=$_, sleepers", '', '', @options, @sleepers))
    } 4, 1;
    return of_statements(
        id => 'W12',
        about => 'one statement in a hundred sleeps 50 ms, 64 threads: latency of the others',
        arguments => { %window, short => [qw(--seconds 0.4 --warm-up 0.4)], usual => [qw(--seconds 1.5 --warm-up 0.5)] },
        contenders => [
            @shared, load('pipeline', 'pipeline', '', '', '--in-flight', 64),
            load('pipeline', 'pipeline, sleepers', '', '', '--in-flight', 64, @sleepers),
        ],
        show => ['throughput', 'latency p50', 'latency p99', 'connections'],
        ratios => [
            { name => 'p99 with sleepers : without', measure => 'latency p99', over => ['shared_max=4, sleepers'],
                under => ['shared_max=4'], target => 'median <= 2' },
            { name => 'p99 with sleepers : without, shared_max=1', measure => 'latency p99',
                over => ['shared_max=1, sleepers'], under => ['shared_max=1'] },
            { name => 'p99 with sleepers : without, a pipeline by hand', measure => 'latency p99',
                over => ['pipeline, sleepers'], under => ['pipeline'] },
        ],
    );
}

sub threads {
    my @threads = $size eq 'short' ? (1, 4, 16, 64, 256) : (1, 2, 4, 8, 16, 32, 64, 128, 256);
    my $with = sub {
        my ($manner, $connections, $n) = @_;
        return load($manner, "$manner/$connections", 'threads', $n, '--callers', $n, '--connections', $connections);
    };
    my $ratio = sub {
        my ($connections, $n) = @_;
        return { name => "shared : leased, $connections connection" . ($connections > 1 ? 's' : '') . ", $n threads",
            measure => 'throughput', over => ["shared/$connections $n"], under => ["leased/$connections $n"],
            target => 'median >= 0.97' };
    };
    my $growth = sub {
        my ($connections) = @_;
        return { name => "CPU of the client per statement, shared on $connections: the most : with one thread",
            measure => 'CPU', over => [ map { "shared/$connections $_" } @threads ],
            under => ["shared/$connections 1"], target => 'median <= 1.5' };
    };
    return of_statements(
        id => 'W13',
        about => '1 to 256 threads, shared and leased, on the same number of connections',
        show => ['throughput', 'CPU'],
        contenders => [ map { my $n = $_; map { my $c = $_; map { $with->($_, $c, $n) } qw(shared leased) } 1, 4 } @threads ],
        ratios => [
            (map { my $c = $_; map { $ratio->($c, $_) } @threads } 1, 4),
            (map { $growth->($_) } 1, 4),
        ],
    );
}

sub recovery {
    return of_programs(
        id => 'recovery',
        about => 'from the moment a crashed server accepts again to the first success; attempts while it is away',
        server => 'own',
        programs => [qw(recovery)],
        rounds => { short => 1, usual => 1, long => 1 },
        arguments => {
            short => [qw(--rounds 5 --outage 300)],
            usual => [qw(--rounds 30 --outage 300 --outage 1000)],
            long => [qw(--rounds 30 --outage 300 --outage 1000 --outage 10000)],
        },
    );
}

# All there are, for that tree, size and those peers (Peers.pm's hashes).
sub workloads {
    ($srcdir, $builddir, $size, @peers) = @_;
    return (door(), leasing(), sharing(), sharing_from_afar(), tickets(), groups(), callbacks(), growth(), inserts(),
        batches(), memory(), sleepers(), threads(), recovery());
}

1;
