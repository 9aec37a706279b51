#!/usr/bin/perl
# Examples: event loops, and when a connection is given back; run as a user runs them, against the server that
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
alarm 60 * $slow;

# What any of them says of a wrong option, and of a server that is not there.
sub fails {
    my ($program) = @_;
    my ($status, undef, $err) = run_program($program, 'pool_bogus=1');
    is($status, 1, 'fails with a wrong option');
    like($err, qr/bogus/, 'and names it');
    ($status, undef, $err) = run_program($program, "host=$dir port=1 pool_acquire_timeout=50ms");
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

done_testing();
