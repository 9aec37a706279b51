#!/usr/bin/perl
# doc/RELIABILITY.md and doc/REQUIREMENTS.md name tests: each file exists and is run, and each name is in it.
use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Test::More;

my $srcdir = $ENV{PQPOOL_SRCDIR} // abs_path(dirname($0) . '/..');

sub slurp {
    my ($path) = @_;
    open my $file, '<', $path or return undef;
    local $/;
    return <$file>;
}

# A C string may be written in several pieces.
sub text_of {
    my ($path) = @_;
    my $text = slurp("$srcdir/$path") // return undef;
    return $text =~ s/"\s*\n\s*"//gr;
}

my $makefile = slurp("$srcdir/Makefile.am") // die;
my (%seen, @missing, @not_run, @unnamed);
for my $page ('RELIABILITY', 'REQUIREMENTS') {
    my $text = slurp("$srcdir/doc/$page.md") // '';
    my $rows = 0;
    for my $row (grep { /^\|.*`t\// } split /\n/, $text) {
        $rows++;
        for my $file ($row =~ /`(t\/[^`]+)`/g) {
            my $content = text_of($file);
            push @missing, "$page: $file" unless defined $content;
            my $run = $file =~ s/\.c$/.t/r;
            push @not_run, "$page: $file" unless $makefile =~ /\Q$run\E\s/;
            $seen{$file}++;
            my ($name) = $page eq 'RELIABILITY' ? $row =~ /`\s*\|\s*(.*?)\s*\|$/ : ();
            push @unnamed, "$file: $name" if defined $name && defined $content && index($content, $name) < 0;
        }
    }
    cmp_ok($rows, '>', 20, "doc/$page.md has its table");
}
is("@missing", '', 'each test that is named there exists');
is("@not_run", '', 'and is run by make check');
is(join("\n", @unnamed), '', 'and prints the name that is given for it');
my @all = map { s{^\Q$srcdir\E/}{}r } glob("$srcdir/t/[0-9]*.c");
my @forgotten = grep { !$seen{$_} && !m{/(?:030-parts|325-planted)} } @all;
is("@forgotten", '', 'no test stands outside of doc/REQUIREMENTS.md');
done_testing();
