# Report: the samples of a workload as a table and as CSV, and whether its targets were met.
package Report;
use strict;
use warnings;
use POSIX qw(ceil);
use Exporter qw(import);
our @EXPORT_OK = qw(table_of write_csv);

# By nearest rank: of fewer than 100 samples, the p99 is the greatest.
sub statistics {
    my @sorted = sort { $a <=> $b } @_;
    my $rank = sub { $sorted[ ceil($_[0] * @sorted) - 1 ] };
    return { min => $sorted[0], median => $rank->(0.5), p99 => $rank->(0.99), max => $sorted[-1], n => scalar @sorted };
}

sub is_met {
    my ($target, $of) = @_;
    for (split /, */, $target) {
        my ($which, $how, $limit) = /^(min|median|p99|max) (<=|>=) ([\d.]+)$/ or die "not a target: $_\n";
        return 0 unless $how eq '<=' ? $of->{$which} <= $limit : $of->{$which} >= $limit;
    }
    return 1;
}

sub number {
    my ($value) = @_;
    return abs($value) >= 100 ? sprintf('%.0f', $value) : sprintf('%.3g', $value);
}

sub title_of {
    my ($row) = @_;
    return $row->{measure} if $row->{contender} eq '';
    my $at = $row->{axis} eq '' ? '' : ", $row->{axis} $row->{at}" . ($row->{axis} eq 'round trip' ? ' ms' : '');
    return "$row->{contender}$at: $row->{measure}";
}

# Returns the table's text and how many targets were missed.
sub table_of {
    my ($workload, $result) = @_;
    my ($missed, $text) = (0, "\n## $workload->{id}: $workload->{about}\n\n");
    $text .= "| what | unit | n | min | median | max | target | met |\n|---|---|---|---|---|---|---|---|\n";
    for my $row (grep { !$_->{hidden} } @{ $result->{rows} }) {
        my $of = statistics(map { $_->[1] } @{ $row->{values} });
        my $met = $row->{target} eq '' ? '' : is_met($row->{target}, $of) ? 'yes' : 'NO';
        $missed++ if $met eq 'NO';
        my @cells = (title_of($row), $row->{unit}, $of->{n}, (map { number($of->{$_}) } qw(min median max)),
            $row->{target}, $met);
        $text .= '| ' . join(' | ', @cells) . " |\n";
    }
    $text .= "\n$_\n" for @{ $result->{remarks} };
    return ($text, $missed);
}

# A field that holds a comma or a quote is put in quotes.
sub csv {
    return join(',', map { my $f = $_; /[",]/ ? do { $f =~ s/"/""/g; qq("$f") } : $f } @_) . "\n";
}

# Each sample a row, in the order in which it came.
sub write_csv {
    my ($path, $result) = @_;
    open my $out, '>', $path or die "$path: $!\n";
    print $out csv(qw(measure contender axis at unit round value));
    for my $row (@{ $result->{rows} }) {
        print $out csv(@$row{qw(measure contender axis at unit)}, @$_) for @{ $row->{values} };
    }
    close $out or die "$path: $!\n";
}

1;
