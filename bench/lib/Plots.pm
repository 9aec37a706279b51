# Plots: draws what the CSV files of a results directory hold, as SVG, by gnuplot. Each point is the median of its rounds,
# its bar reaches from the least to the greatest.
package Plots;
use strict;
use warnings;
use Exporter qw(import);
our @EXPORT_OK = qw(draw);

# from: the file without .csv. Over an axis: measure and axis as the samples have them; beside: so those without one are
# drawn, too; even: its values stand side by side, however far apart they are. Over quantiles: measures, the axis' text for
# each. per: so many of the samples' unit are one of the plot's.
my @plots = (
    {
        name => 'throughput_over_threads', from => 'W13', measure => 'throughput', axis => 'threads',
        title => 'Throughput over threads', x => 'threads (log scale)', y => 'thousand statements per second',
        per => 1000, log_x => 1,
    },
    {
        name => 'throughput_over_round_trip', from => 'W4', measure => 'throughput', axis => 'round trip',
        title => 'Throughput over the round trip', x => 'added round trip (ms, not to scale)',
        y => 'thousand statements per second (log scale)', per => 1000, log_y => 1, even => 1,
    },
    {
        name => 'latency_over_round_trip', from => 'W6', measure => 'latency p50', axis => 'round trip',
        title => 'A request over the round trip', x => 'added round trip (ms, not to scale)',
        y => 'median time of a request (ms, log scale)', log_y => 1, even => 1,
    },
    {
        name => 'throughput_over_pool_size', from => 'W3', measure => 'throughput', axis => 'connections', beside => 1,
        title => 'Throughput over the number of connections', x => 'connections (log scale)',
        y => 'thousand statements per second', per => 1000, log_x => 1,
    },
    {
        name => 'latency_with_slow_statements', from => 'W12',
        measures => [map { ["latency $_", $_] } qw(p50 p90 p99 p99.9 max)],
        title => 'Latency of short statements beside slow ones', x => 'quantile', y => 'latency (ms, log scale)', log_y => 1,
    },
);

# Okabe and Ito's colours, which the colour-blind can tell apart, and a mark for each.
my @colours = map { "#$_" } qw(0072B2 D55E00 009E73 CC79A7 E69F00 56B4E9 000000);
my @marks = (7, 5, 9, 13, 11, 6, 4);

# Returns what was drawn and remarks: {files => [...], remarks => [...]}. Results that are not there are not drawn.
sub draw {
    my ($dir) = @_;
    my %done = (files => [], remarks => []);
    if (!gnuplot_version()) {
        push @{ $done{remarks} }, 'gnuplot is not installed: no plots are drawn (Debian: apt-get install gnuplot-nox)';
        return \%done;
    }
    for my $plot (@plots) {
        my $csv = "$dir/$plot->{from}.csv";
        my @lines = -e $csv ? lines_of($plot, read_csv($csv)) : ();
        next unless @lines;
        my $file = "$dir/$plot->{name}.svg";
        my $failed = run_gnuplot(script_for($plot, $file, \@lines));
        push @{ $failed ? $done{remarks} : $done{files} }, $failed ? "$plot->{name} is not drawn: $failed" : $file;
    }
    return \%done;
}

# ---- what the files hold ----

# A field may stand in quotes, with "" for one.
sub fields_of {
    my ($line) = @_;
    my @fields;
    while ($line =~ /\G(?:"((?:[^"]|"")*)"|([^,]*))(,|$)/g) {
        push @fields, defined $1 ? $1 =~ s/""/"/gr : $2;
        last if $3 eq '';
    }
    return @fields;
}

sub read_csv {
    my ($path) = @_;
    open my $in, '<', $path or die "$path: $!\n";
    chomp(my ($header, @lines) = <$in>);
    my @names = fields_of($header // '');
    my %names = map { $_ => 1 } @names;
    for (qw(measure contender axis at value)) {
        die "$path has no column $_\n" unless $names{$_};
    }
    return map { my %row; @row{@names} = fields_of($_); \%row } grep { /\S/ } @lines;
}

sub middle {
    my @sorted = sort { $a <=> $b } @_;
    return @sorted % 2 ? $sorted[@sorted / 2] : ($sorted[@sorted / 2 - 1] + $sorted[@sorted / 2]) / 2;
}

# Where on the horizontal axis a sample belongs: undef if nowhere, '' if all along it.
sub place_of {
    my ($plot, $row) = @_;
    if (my $measures = $plot->{measures}) {
        my ($i) = grep { $measures->[$_][0] eq $row->{measure} } 0 .. $#$measures;
        return $i;
    }
    return undef unless $row->{measure} eq $plot->{measure};
    return $row->{at} =~ /^([\d.]+)/ ? $1 : undef if $row->{axis} eq $plot->{axis};
    return $plot->{beside} && $row->{axis} eq '' ? '' : undef;
}

# One for each contender, in the order in which they come: {name, points => [[at, median, least, greatest], ...]}; level
# instead of points for one that has the same value all along the axis.
sub lines_of {
    my ($plot, @rows) = @_;
    my (@order, %values);
    for my $row (@rows) {
        my $at = place_of($plot, $row);
        next unless defined $at;
        push @order, $row->{contender} unless $values{ $row->{contender} };
        push @{ $values{ $row->{contender} }{$at} }, $row->{value} / ($plot->{per} // 1);
    }
    return map { line_of($plot, $_, $values{$_}) } @order;
}

sub line_of {
    my ($plot, $name, $values) = @_;
    my @points = map { my @v = sort { $a <=> $b } @{ $values->{$_} }; [$_, middle(@v), $v[0], $v[-1]] }
        sort { $a <=> $b } grep { $_ ne '' } keys %$values;
    my %line = (name => $name, points => \@points);
    $line{level} = middle(@{ $values->{''} }) if $values->{''};
    $line{level} //= $points[0][1] if $plot->{beside} && @points == 1;
    return \%line;
}

# ---- gnuplot ----

sub quoted {
    my ($text) = @_;
    return "'" . $text =~ s/'/''/gr . "'";
}

# With room at both sides, so that no mark touches the frame.
sub range_for {
    my ($plot, @ticks) = @_;
    my @at = map { $_->[1] } @ticks;
    @at = (1) unless @at;
    return sprintf('[%g:%g]', $at[0] / 1.2, $at[-1] * 1.2) if $plot->{log_x};
    my $room = ($at[-1] - $at[0]) * 0.05 || 1;
    return sprintf('[%g:%g]', $at[0] - $room, $at[-1] + $room);
}

# Where the values of the axis stand; the samples' own values, unless they are to stand evenly.
sub set_places {
    my ($plot, $lines) = @_;
    my @at = sort { $a <=> $b } keys %{ { map { $_->[0] => 1 } map { @{ $_->{points} } } @$lines } };
    my %place = map { $at[$_] => $plot->{even} ? $_ : $at[$_] } 0 .. $#at;
    $_->[0] = $place{ $_->[0] } for map { @{ $_->{points} } } @$lines;
    my $measures = $plot->{measures};
    return map { [$measures ? $measures->[$_][1] : $_, $place{$_}] } @at;
}

# The text of a line's own: points with bars, joined; dashed all along for a level.
sub curves_for {
    my ($line, $i) = @_;
    my ($colour, $mark, $name) = ($colours[$i % @colours], $marks[$i % @marks], quoted($line->{name}));
    my $style = "linecolor rgb '$colour' linewidth 2";
    my @curves;
    push @curves, sprintf '%s with lines %s dashtype (10,6) %s', $line->{level}, $style,
        @{ $line->{points} } ? 'notitle' : "title $name"
        if defined $line->{level};
    return @curves unless @{ $line->{points} };
    push @curves, "\$line$i using 1:2:3:4 with yerrorbars $style pointtype $mark pointsize 0.9 notitle";
    push @curves, "\$line$i using 1:2 with linespoints $style pointtype $mark pointsize 0.9 title $name";
    return @curves;
}

sub script_for {
    my ($plot, $file, $lines) = @_;
    my @ticks = set_places($plot, $lines);
    my $ticks = join ', ', map { quoted($_->[0]) . " $_->[1]" } @ticks;
    my $script = '';
    for my $i (0 .. $#$lines) {
        $script .= "\$line$i << END\n" . join('', map { "@$_\n" } @{ $lines->[$i]{points} }) . "END\n"
            if @{ $lines->[$i]{points} };
    }
    my $scales = join '', map { $plot->{"log_$_"} ? "set logscale $_\n" : '' } qw(x y);
    my $floor = $plot->{log_y} ? '' : "set yrange [0:*]\n";
    my ($title, $x, $y, $out) = map { quoted($_) } @$plot{qw(title x y)}, $file;
    return $script . <<"END" . 'plot ' . join(", \\\n    ", map { curves_for($lines->[$_], $_) } 0 .. $#$lines) . "\n";
set terminal svg size 1000,620 font 'Helvetica,Arial,sans-serif,18' background rgb 'white' noenhanced
set output $out
set title $title
set xlabel $x
set ylabel $y
set key outside right center vertical maxcols 1 Left reverse samplen 2 spacing 1.2
set border 3 linecolor rgb '#555555'
set tics nomirror scale 0.5,0.25 textcolor rgb '#000000'
set grid ytics linetype 1 linecolor rgb '#dddddd' linewidth 1
set format y '%.12g'
set xrange @{[range_for($plot, @ticks)]}
set xtics ($ticks)
$scales$floor
END
}

sub gnuplot_version {
    return `gnuplot --version 2>/dev/null` =~ /^gnuplot (\S+)/ ? $1 : '';
}

# Returns nothing, or what gnuplot complained about.
sub run_gnuplot {
    my ($script) = @_;
    require File::Temp;
    my $in = File::Temp->new(SUFFIX => '.gnuplot');
    print $in $script;
    close $in or die "$in: $!\n";
    my $said = `gnuplot $in 2>&1`;
    return $? == 0 ? '' : $said || 'gnuplot failed';
}

1;
