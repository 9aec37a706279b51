# Rounds: runs the contenders of a workload in turn, A B C A B C, gathers what they print, and compares them within each
# round: from one round to the next the machine may have become another one.
package Rounds;
use strict;
use warnings;
use List::Util qw(max min);
use Exporter qw(import);
use Instructions qw(can_count instructions);
use Servers qw(server_environment);
our @EXPORT_OK = qw(run_workload steps_of);

# How many programs a workload runs: for the time that is left.
sub steps_of {
    my ($workload, $size) = @_;
    return $workload->{rounds}{$size} * @{ $workload->{contenders} } + @{ $workload->{counts} // [] };
}

# Runs a command against a server of that kind ('' for none, 'own' for one of its own); returns its lines.
sub lines_of {
    my ($srcdir, $server, @command) = @_;
    local %ENV = %ENV;
    if ($server eq 'own') { unshift @command, "$srcdir/t/with-pg" }
    elsif ($server ne '') {
        my $environment = server_environment($srcdir, $server);
        @ENV{ keys %$environment } = values %$environment;
    }
    open my $out, '-|', @command or die "$command[0]: $!\n";
    my @lines = <$out>;
    close $out or die "failed: @command\n";
    chomp @lines;
    return @lines;
}

sub note_remark {
    my ($result, $text) = @_;
    push @{ $result->{remarks} }, $text unless grep { $_ eq $text } @{ $result->{remarks} };
}

# The row for a contender's measure; a new one at its first sample.
sub row_for {
    my ($result, $contender, $measure, $unit, $target) = @_;
    my $key = "$contender->{key}\t$measure";
    return $result->{by_key}{$key} if $result->{by_key}{$key};
    my $row = { measure => $measure, contender => $contender->{name} // '', axis => $contender->{axis} // '',
        at => $contender->{at} // '', unit => $unit, target => $target, values => [] };
    push @{ $result->{rows} }, $result->{by_key}{$key} = $row;
    return $row;
}

# A program that compares several ways itself names them before a bar: `WAY | MEASURE`.
sub competitor {
    my ($contender, $measure) = @_;
    $$measure =~ s/^(.*) \| // or return $contender;
    return { %$contender, key => "$contender->{key}, $1", name => $1 };
}

# A program's samples and remarks, as bench/bench.h describes them. show: the measures that the table is to have.
sub gather {
    my ($result, $workload, $contender, $round, @lines) = @_;
    for (@lines) {
        if (/^# (.*)/) {
            note_remark($result, $1);
            next;
        }
        my ($measure, $unit, $value, $target) = split /\t/, $_, -1;
        die "not a sample: $_\n" unless defined $target && $value =~ /^-?[\d.]+(?:e[-+]?\d+)?$/;
        my $row = row_for($result, competitor($contender, \$measure), $measure, $unit, $target);
        $row->{hidden} = 1 if $workload->{show} && !grep { $_ eq $measure } @{ $workload->{show} };
        push @{ $row->{values} }, [$round, $value];
    }
}

# ---- comparing ----

# Values of a round, of those of the contenders that ran.
sub values_in {
    my ($result, $measure, $keys, $round) = @_;
    my @rows = grep { defined } map { $result->{by_key}{"$_\t$measure"} } @$keys;
    return map { $_->[1] } grep { $_->[0] == $round } map { @{ $_->{values} } } @rows;
}

# Where a side has several contenders, the best of them counts, or what `pick` says.
sub compare {
    my ($result, $ratio, $rounds) = @_;
    my $pick = $ratio->{pick} // \&max;
    my $row = row_for($result, { key => 'ratio', name => '' }, $ratio->{name}, 'ratio', $ratio->{target} // '');
    for my $round (1 .. $rounds) {
        my ($over, $under) = map { $pick->(values_in($result, $ratio->{measure}, $_, $round)) } @$ratio{qw(over under)};
        push @{ $row->{values} }, [$round, sprintf '%.4f', $over / $under] if defined $over && $under;
    }
    return if @{ $row->{values} };
    pop @{ $result->{rows} };
    note_remark($result, "not measured: $ratio->{name}");
}

# ---- instructions ----

# They hardly drift from run to run (where threads meet, by a tenth): once is enough. A count that is `against` another is
# also told as a multiple of it.
sub count_all {
    my ($bench, $workload, $result) = @_;
    my @counts = @{ $workload->{counts} // [] } or return;
    return note_remark($result, 'valgrind is not installed: instructions are not counted') unless can_count();
    my %found;
    for my $count (@counts) {
        $bench->{progress}->("$workload->{id}, instructions, $count->{name}");
        my @command = ("$bench->{builddir}/bench/$count->{command}[0]", @{ $count->{command} }[1 .. $#{ $count->{command} }]);
        my @both = instructions(sub { lines_of($bench->{srcdir}, $workload->{server}, @_) }, @command);
        return note_remark($result, 'no instructions were counted: built without valgrind/callgrind.h, or without -g')
            unless @both;
        $found{ $count->{name} } = \@both;
        tell_count($result, $count, \@both, $count->{against} && $found{ $count->{against} });
    }
}

sub tell_count {
    my ($result, $count, $both, $against) = @_;
    my @whose = ('instructions per operation, all', "instructions per operation, the library's");
    for my $i (0, 1) {
        my $target = $i ? $count->{target} // '' : '';
        my $row = row_for($result, { key => $count->{name} }, "$whose[$i], $count->{name}", 'count', $target);
        push @{ $row->{values} }, [1, sprintf '%.0f', $both->[$i]];
        next unless $against;
        $row = row_for($result, { key => 'ratio' }, "$whose[$i], $count->{name} : $count->{against}", 'ratio',
            $i ? 'median <= 1.2' : '');
        push @{ $row->{values} }, [1, sprintf '%.4f', $both->[$i] / $against->[$i]];
    }
}

# ---- a workload ----

# Somebody else's program that fails is left out from then on, and named; one of ours ends the workload.
sub run_contender {
    my ($bench, $workload, $contender, $result, $round) = @_;
    my @command = (@{ $contender->{command} }, @{ $workload->{arguments}{ $bench->{size} } // [] });
    my @lines = eval { lines_of($bench->{srcdir}, $workload->{server}, @command) };
    return gather($result, $workload, $contender, $round, @lines) unless $@;
    die $@ unless $contender->{peer};
    $result->{failed}{ $contender->{key} } = 1;
    note_remark($result, "$contender->{key} failed in round $round and was left out");
}

# bench: srcdir, builddir, size, progress (told what runs now).
sub run_workload {
    my ($bench, $workload) = @_;
    my $result = { rows => [], remarks => [ @{ $workload->{remarks} // [] } ], by_key => {}, failed => {} };
    my $rounds = $workload->{rounds}{ $bench->{size} };
    for my $round (1 .. $rounds) {
        for my $contender (@{ $workload->{contenders} }) {
            $bench->{progress}->("$workload->{id}, $contender->{key}, round $round of $rounds");
            run_contender($bench, $workload, $contender, $result, $round) unless $result->{failed}{ $contender->{key} };
        }
    }
    compare($result, $_, $rounds) for @{ $workload->{ratios} // [] };
    count_all($bench, $workload, $result);
    return $result;
}

1;
