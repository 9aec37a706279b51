#!/usr/bin/perl
# Examples, run as a user runs them, against the server that
# PGHOST, PGPORT ... name.
#
#   PQPOOL_EXAMPLES  the directory of the examples (./examples)
#   PQPOOL_LOOPS     the event loops whose libraries were there when they were built
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/support";
use Programs;
use Test::More;
use Time::HiRes qw(time);

my $examples = $ENV{PQPOOL_EXAMPLES} // './examples';
my %built = map { $_ => 1 } split ' ', $ENV{PQPOOL_LOOPS} // join ' ', grep { -x "$examples/loop_$_" } qw(epoll poll uv event ev);
my $slow = ($ENV{PQPOOL_TEST_SLOW} // 1) || 1;
alarm 120 * $slow;

# What any of them says of a wrong option, and of a server that is not there.
sub fails_with_a_wrong_option {
    my ($program) = @_;
    my ($status, undef, $err) = run_program($program, 'pool_bogus=1');
    is($status, 1, 'fails with a wrong option');
    like($err, qr/bogus/, 'and names it');
}

sub fails {
    my ($program) = @_;
    fails_with_a_wrong_option($program);
    my ($status, undef, $err) = run_program($program, "host=$dir port=1 pool_acquire_timeout=50ms");
    is($status, 1, 'fails without a server');
    like($err, qr/No such file/, q{in libpq's words});
}

my %library = (uv => 'libuv', event => 'libevent', ev => 'libev');
for my $loop (qw(epoll poll uv event ev)) {
    subtest "B4: a pool in a loop of $loop" => sub {
        plan skip_all => "$library{$loop} was not there when the examples were built" if $library{$loop} && !$built{$loop};
        my $program = "$examples/loop_$loop";
        my ($status, $out, $err) = run_program($program);
        is($status, 0, 'ends by itself, with all answers right');
        is($err, '', 'without a complaint');
        like($out, qr/^100 members found, 3 figures, 1 visit noted, in one thread, on [12] connections?$/m,
            'a hundred statements, a group and a lease take two connections at most');
        ($status) = run_program($program, 'application_name=ignored pool_log_level=error');
        is($status, 0, 'takes a connection string');
        fails($program);
    };
}

subtest 'B14: what sharing gives, and what it does not' => sub {
    my $program = "$examples/side_by_side";
    my ($status, $out, $err) = run_program($program, 'application_name=side_by_side pool_log_level=error');
    is($status, 0, 'all statements have their answers');
    is($err, '', 'without a complaint');
    like($out, qr/^\| quick ones, shared \| 1 \|/m, 'four quick statements side by side take one connection');
    like($out, qr/^\| busy ones, shared \| 1 \|/m, 'so do four busy ones, one after another in its server process');
    like($out, qr/^\| busy ones, PQPOOL_SLOW \| 4 \|/m, 'flagged as slow, each has one');
    fails($program);
};

subtest 'B13: when a connection is given back' => sub {
    my $program = "$examples/return_time";
    my $began = time;
    my ($status, $out, $err) = run_program($program, '', 0.5 * $slow);
    is($status, 0, 'no call waits for a handler that sleeps') or diag($out);
    is($err, '', 'without a complaint');
    cmp_ok(time - $began, '>=', 1 * $slow, 'the handlers have slept, in both experiments');
    my @here = $out =~ /here:  (.*)\n/g;
    is(scalar @here, 2, 'both are shown');
    like($here[0], qr/ 0 leased, \d shared with 0 statements on it, \d idle, 0 waiting, 0 tickets out/,
        'B13: asleep after its statement, a handler holds nothing');
    like($here[1], qr/ 0 leased, \d shared with 0 statements on it, \d idle, 0 waiting, 5 tickets out/,
        'B13: asleep before it collects its answer, it holds a ticket and nothing else');
    is(scalar(() = $out =~ /20 calls at once took [\d.]+ ms at most/g), 2, 'the calls are timed');
    is(scalar(() = $out =~ /there: further calls work/g), 2, 'beside what was seen elsewhere');
    fails($program);
};

subtest 'F3: the server is full' => sub {
    my $program = "$examples/server_full";
    my ($status, $out, $err) = run_program($program, '', 1.5 * $slow);
    is($status, 0, 'it is as the story says, but for its end') or diag("$out$err");
    is($err, '', 'without a complaint');
    my @hurried = $out =~ /a call that has [\d.]+ s: (.*)/g;
    is(scalar @hurried, 2, 'a call in a hurry is shown, beside a lease and beside a shared statement');
    like($hurried[0], qr/^PQPOOL_ETIMEDOUT: no connection was free within .* held [\d.]+ s by thread \d+ .*server_full\.c:\d+: running/,
        'it ends at its deadline, and the message names the sleeper: his place');
    like($hurried[1], qr/^PQPOOL_ETIMEDOUT: no connection was free within .*shared, running for [\d.]+ s: SELECT pg_sleep/,
        'or his statement');
    like($_, qr/the last connect failed: .*too many connections for role/, q{the server's own words stand beside it}) for @hurried;
    is(scalar(() = $out =~ /a call that has time: ok\n/g), 2, 'a call that has time waits and is served');
};

subtest 'F5: events, at once and one after another' => sub {
    my $program = "$examples/pool_events";
    my ($status, $out, $err) = run_program($program);
    is($status, 0, 'all requests are served');
    is($err, '', 'without a complaint');
    is($out, join('', map { "$_\n" }
        'at once', (map { "  $_" } 'request 1', 'request 2', 'request 3', 'enqueue', 'request 4', 'enqueue', 'request 5',
            'enqueue', 'response sent', 'connect', 'connect', ('release') x 5), 'connect 2, enqueue 3, release 5',
        'one after another', (map { "  $_" } 'request 1', 'connect', 'release', (map { ("request $_", 'release') } 2 .. 5),
            'response sent'), 'connect 1, enqueue 0, release 5'), q{the events come in the story's order});
    fails($program);
};

subtest 'F6: settings before and after, and the warnings of a pool of the wrong size' => sub {
    my $program = "$examples/settings";
    my ($status, $out, $err) = run_program($program);
    is($status, 0, 'all warnings are provoked') or diag("$out$err");
    is($err, '', 'without a complaint');
    like($out, qr/^\| $_->[0] \| $_->[1] \| $_->[2] \| $_->[3] \|$/m, "$_->[0] is $_->[1], before and after") for
        ['connectionLimit', 'max_size', 10, 90], ['waitForConnections', 'wait', 'on', 'on'], ['queueLimit', 'queue_limit', 0, 50],
        ['acquireTimeout', 'acquire_timeout', -1, '30s'], ['connectTimeout', 'connect_timeout', '1min', '10s'],
        ['logging', 'log_level', 'off', 'warn'], ['maxQueryExecutionTime', 'slow_statement', 'off', '1s'];
    like($out, qr/^9 of 10 connections in use \(90 %, health_used 80 %\)\nand/m, 'D4: above 80 % used is worth a warning');
    like($out, qr/^11 callers wait \(health_waiting 10\)$/m, 'D4: and above 10 waiting');
    like($out, qr/^warning: health: 5 connections were idle for all of the last/m, 'D4: by itself it tells of a pool too large');
    fails_with_a_wrong_option($program); # one of the settings shown is to wait for ever
};

subtest 'F8: release on every path' => sub {
    my $program = "$examples/release";
    my ($status, $out, $err) = run_program($program);
    is($status, 0, 'leaks are found, and undone') or diag("$out$err");
    is($err, '', 'without a complaint');
    my ($default) = $out =~ /as they are by default:\n(.*?)\nwithout/s;
    like($default, qr/^  501: no connection was free .*?release\.c:(\d+): idle/, 'A13: with default options the fifth is told who holds them');
    like($default, qr/answers: 200 200 500 200 501; 4 connections are still out$/, 'four are never given back');
    my ($line) = $default =~ /release\.c:(\d+): idle/;
    like($out, qr/the first report: \S*release\.c:$line has held connection \d+ for/, 'A12: leak_threshold names the same line by itself');
    like($out, qr/with a release on every path:\n  answers: 200 200 500 200 200; 0 connections are still out/, 'A10: with a release on every path all are answered');
    like($out, qr/^  x' OR 'a' = 'a +raw string: 2 rows, parameters: 0 rows$/m, 'what is a parameter is no SQL');
    fails_with_a_wrong_option($program);
};

subtest 'F9: outside calls in a transaction' => sub {
    my $program = "$examples/register";
    my ($status, $out, $err) = run_program($program, '', 200 * $slow);
    is($status, 0, 'all are registered') or diag("$out$err");
    like($err, qr/^the pool's first warning: long_hold: connection \d.*register\.c:\d+,.* held [\d.]+ ms, [\d.]+ ms of it idle in transaction/,
        'A14: the pool warns of what sits idle in a transaction');
    my %row = map { /^\| (.*?) \| ([\d.]+) \| ([\d.]+) \| (\d+) of (\d+) \| (\d+) \|$/ ? ($1 => [$2, $3, $4, $5, $6]) : () }
        split /\n/, $out;
    is(join('; ', sort keys %row), 'around everything; around the save only; none', 'three ways are compared');
    my ($all, $none, $save) = @row{'around everything', 'none', 'around the save only'};
    cmp_ok($all->[0], '>=', 400 * $slow, 'with everything inside, both outside calls hold the connection');
    cmp_ok($all->[2], '>=', $all->[3] * 3 / 4, 'which is noticed');
    cmp_ok($none->[0], '<', 200 * $slow, 'without a transaction they do not');
    cmp_ok($save->[0], '<', 200 * $slow, 'nor with one around the save only');
    is($save->[2], 0, 'and nothing is reproached');
    cmp_ok($save->[4], '>', $all->[4], 'and more get through');
    like($out, qr/200 x \(4 - 1\) \+ 1 = 601/, 'the formula');
};

done_testing();
