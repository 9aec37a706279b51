# Instructions: how many a program takes for an operation, all of them and the library's own, by callgrind.
package Instructions;
use strict;
use warnings;
use File::Temp qw(tempdir);
use Exporter qw(import);
our @EXPORT_OK = qw(can_count instructions);

my $operations = 10_000; # of each program, while it is counted
my $dir = tempdir(CLEANUP => 1);
my $runs = 0;

sub can_count {
    return system('valgrind --version >/dev/null 2>&1') == 0;
}

# What callgrind counted: all instructions, and those of the library's own sources.
sub read_callgrind {
    my ($path) = @_;
    my ($all, $ours, $file, $callee, %names) = (0, 0, '', 0);
    local $_;
    open my $in, '<', $path or die "$path: $!\n";
    while (<$in>) {
        if (/^(?:fl|fi|fe|cfi|cfl)=\((\d+)\)(?: (.*))?/) { # a name is told once, with its number
            $names{$1} = $2 if defined $2;
            $file = $names{$1} unless /^cf/;
        } elsif (/^calls=/) {
            $callee = 1; # the next line is what the callee took: counted where it stands itself
        } elsif (/^[-+*\d]\S* (\d+)$/) {
            my $self = $callee ? 0 : $1;
            $all += $self;
            $ours += $self if $file =~ m{/src/\w+\.[ch]$};
            $callee = 0;
        }
    }
    return ($all, $ours);
}

# Of a command that runs so many operations between callgrind.h's START and STOP. Returns instructions per operation,
# all and the library's, or nothing if they can't be counted. run runs a command.
sub instructions {
    my ($run, @command) = @_;
    my $file = "$dir/" . ++$runs;
    $run->('valgrind', '-q', '--tool=callgrind', '--instr-atstart=no', '--fair-sched=try',
        "--callgrind-out-file=$file", @command);
    my @counts = map { $_ / $operations } read_callgrind($file);
    return $counts[1] > 0 ? @counts : ();
}

1;
