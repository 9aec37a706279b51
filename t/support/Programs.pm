# Programs: what script tests share: a server for a test that was started alone, and programs run as a user runs them.
package Programs;
use strict;
use warnings;
use Exporter qw(import);
use File::Temp qw(tempdir);
our @EXPORT = qw($dir run_program slurp);

BEGIN { # a test that was started by itself brings a server of its own
    unless ($ENV{PQPOOL_TEST_SERVER}) {
        (my $here = $0) =~ s{[^/]*$}{};
        exec "./${here}with-pg", $^X, $0 if $here !~ m{^/};
        exec "${here}with-pg", $^X, $0;
    }
}

our $dir = tempdir(CLEANUP => 1);

# Runs a program; returns its exit status, standard output and standard error.
sub run_program {
    my @argv = @_;
    my $pid = fork() // die "fork: $!";
    if ($pid == 0) {
        open STDOUT, '>', "$dir/out" or die;
        open STDERR, '>', "$dir/err" or die;
        exec { $argv[0] } @argv or die "$argv[0]: $!";
    }
    waitpid $pid, 0;
    my $status = $? & 127 ? 128 + ($? & 127) : $? >> 8;
    return ($status, slurp("$dir/out"), slurp("$dir/err"));
}

sub slurp {
    my ($path) = @_;
    open my $file, '<', $path or return '';
    local $/;
    return <$file> // '';
}

1;
