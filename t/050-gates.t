#!/usr/bin/perl
# Gates: what the built library and the sources must keep to, whatever else changes.
use strict;
use warnings;
use Cwd qw(abs_path getcwd);
use File::Basename qw(basename dirname);
use File::Temp qw(tempdir);
use Test::More;

my $srcdir = $ENV{PQPOOL_SRCDIR} // abs_path(dirname($0) . '/..');
my $builddir = $ENV{PQPOOL_BUILDDIR} // getcwd();
my $cc = $ENV{CC} || 'cc';
my $cxx = $ENV{CXX} || 'g++';
my $nm = $ENV{NM} || 'nm';
my $pq = $ENV{PQ_CFLAGS} // `pkg-config --cflags libpq`;
chomp $pq;
my $dir = tempdir(CLEANUP => 1);
alarm 120;

sub slurp {
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!";
    local $/;
    return <$file>;
}

# ---- public headers ----
for my $header (map { basename $_ } glob "$srcdir/include/*.h") {
    for my $case (['C11', "$cc -std=c11 -pedantic", 'c'], ['C++17', "$cxx -std=c++17", 'cc']) {
        my ($language, $command, $suffix) = @$case;
      SKIP: {
            skip "no C++ compiler", 1 if $command =~ /^none/;
            my $file = "$dir/alone.$suffix";
            open my $out, '>', $file or die;
            print $out "#include <$header>\nint main(void) { return 0; }\n";
            close $out;
            my $said = `$command -Wall -Wextra -Werror -I$srcdir/include $pq -fsyntax-only $file 2>&1`;
            is $said, '', "$header compiles alone as $language";
        }
    }
}

# ---- the macros, as a C++ service uses them ----
SKIP: {
    skip "no C++ compiler", 1 if $cxx =~ /^none/;
    open my $out, '>', "$dir/macros.cc" or die;
    print $out <<'END';
#include <pqpool-ops.h>
pqpool_code f(pqpool *pool)
{
    pqpool_error err;
    pqpool_lease lease;
    pqpool_acquire_options options = {PQPOOL_ACQUIRE, .timeout_ms = 5, PQPOOL_HERE};
    pqpool_stats_data stats = {PQPOOL_STATS};
    pqpool_stmt stmt = {PQPOOL_STMT, .sql = "select 1"};
    PQclear(pqpool_exec_stmt(pool, &stmt, &err));
    (void)pqpool_stats(pool, &stats);
    (void)pqpool_acquire_with(pool, &options, &lease, &err);
    (void)pqpool_acquire_within(pool, 5, &lease, &err);
    return pqpool_acquire(pool, &lease, &err);
}
END
    close $out;
    my $said = `$cxx -std=c++20 -Wall -Werror -I$srcdir/include $pq -fsyntax-only $dir/macros.cc 2>&1`;
    is $said, '', 'the macros of the public headers work in C++20';
}

# ---- the README's first program, and the macros, in each language ----
my ($program) = slurp("$srcdir/README.md") =~ /^```c\n(#include <pqpool\.h>.*?)^```/ms;
ok $program, 'the README begins with a program';
my $macros = <<'END';
#include <pqpool.h>
int f(pqpool *pool, int early);
int f(pqpool *pool, int early)
{
    pqpool_error err;
    PQPOOL_LEASE(lease);
    PQPOOL_AUTO_LEASE other = {0};
    if (early)
        return 1;
    if (pqpool_acquire(pool, &lease, &err) != PQPOOL_OK || pqpool_acquire(pool, &other, &err) != PQPOOL_OK)
        return *pqpool_code_name((pqpool_code)err.code);
    return 0;
}
END
my $more = <<'END';
const char *g(int32_t code);
const char *g(int32_t code) { return code ? pqpool_code_name(code) : pqpool_strerror(code); }
END
my $params = <<'END';
#include <pqpool.h>
int f(const char *id);
int f(const char *id)
{
    pqpool_stmt stmt = {PQPOOL_STMT, .sql = "select $1, $2, $3", PQPOOL_PARAMS("7", id, NULL), .flags = PQPOOL_READ_ONLY};
    return stmt.n_params == 3 && stmt.param_values[1] == id && !stmt.param_values[2] ? 0 : 1;
}
int main(void) { return f("x"); }
END
my $strict = "-Wall -Wextra -Wshadow -Werror -O2 -I$srcdir/include $pq";
for my $case (["$cc -std=c11 -pedantic", 'c', 'C11', ''], ["$cxx -std=c++17", 'cc', 'C++17', $more],
    ["$cxx -std=c++20", 'cc', 'C++20', $more], ['clang -std=c11', 'c', 'C11 by clang', ''],
    ['clang++ -std=c++20', 'cc', 'C++20 by clang', $more]) {
    my ($command, $suffix, $language, $also) = @$case;
    my ($compiler) = split / /, $command;
  SKIP: {
        skip "no $compiler", 2 if $compiler eq 'none' || system("command -v $compiler >/dev/null 2>&1") != 0;
        for my $part (['the first program of the README', $program // ''], ['what declares a lease', $macros . $also]) {
            open my $out, '>', "$dir/part.$suffix" or die;
            print $out $part->[1];
            close $out;
            is `$command $strict -c -o $dir/part.o $dir/part.$suffix 2>&1`, '', "$part->[0] compiles without a warning as $language";
        }
    }
}
open my $with_params, '>', "$dir/params.c" or die;
print $with_params $params;
close $with_params;
is `$cc -std=c11 $strict -o $dir/params $dir/params.c 2>&1 && $dir/params; echo \$?`, "0\n",
    'PQPOOL_PARAMS fills n_params and param_values together';

# ---- what the library exports, and what it needs ----
my ($library) = grep { -e } "$builddir/.libs/libpqpool.so", "$srcdir/.libs/libpqpool.so";
SKIP: {
    skip 'the library is not built here', 4 unless $library;
    my %exported = map { $_ => 1 } map { /\s[TDBRW]\s+(\w+)/ ? $1 : () } `$nm -D --defined-only $library`;
    my ($global) = slurp("$srcdir/src/pqpool.map") =~ /global:(.*?)local:/s;
    my %listed = map { $_ => 1 } $global =~ /(\w+);/g;
    is join(' ', sort grep { !/^PQPOOL_/ } keys %exported), join(' ', sort keys %listed),
        'the exported symbols are those of src/pqpool.map';

    my $headers = join '', map { slurp($_) } glob "$srcdir/include/*.h";
    my @undocumented;
    for my $name (sort keys %listed) {
        # its declaration, and a comment beside it, or before the group of lines it stands in
        my ($before, $line) = $headers =~ /\A(.*?)^([a-zA-Z][^\n]*\b$name\([^\n]*)/ms;
        push @undocumented, $name
            unless defined $before && ($line =~ m{/\*} || $before =~ m{\*/[ \t]*\n(?:[^\n]+\n)*\z});
    }
    is "@undocumented", '', 'each is documented in a public header';

    my $config = -e "$builddir/config.h" ? slurp("$builddir/config.h") : '';
    my $watchdog = $config =~ /^#define PQP_WATCHDOG/m;
    my @forbidden = grep { /^(?:_?exit|_Exit|quick_exit|abort|__assert_fail|stdout|puts|putchar|v?printf|__v?printf_chk|_?longjmp|siglongjmp)$/ }
        map { /\sU\s+(\w+)/ ? $1 : () } `$nm -D --undefined-only $library`;
    @forbidden = grep { !/^(?:abort|__assert_fail)$/ } @forbidden
        if $watchdog || $config =~ /^#define PQP_CHECKS/m; # such a build is meant to stop
    is "@forbidden", '', 'the library references neither exit, abort, longjmp nor stdout';

    my @needed = map { /NEEDED.*\[(lib(?!pq\.|c\.|pthread|asan|ubsan|tsan|m\.|gcc_s)[^\]]*)\]/ ? $1 : () }
        `readelf -d $library 2>/dev/null`;
    is "@needed", '', 'the library needs nothing but libc, libpq and pthreads';
}

# ---- layers: the table of doc/ARCHITECTURE.md is the law ----
my %layer;
for (split /\n/, slurp("$srcdir/doc/ARCHITECTURE.md")) {
    $layer{$2} = $1 if /^\|\s*(\d+)\s*\|\s*`?(\w+)`?\s*\|/;
}
my @modules = sort map { basename($_) =~ s/\.[ch]$//r } glob "$srcdir/src/*.[ch]";
my %modules = map { $_ => 1 } @modules;
is join(' ', grep { !exists $layer{$_} } sort keys %modules), '', 'every module has its layer in doc/ARCHITECTURE.md';
is join(' ', grep { !$modules{$_} } sort keys %layer), '', 'and the table names no module that is gone';
my @climbs;
for my $file (glob "$srcdir/src/*.[ch]") {
    my $module = basename($file) =~ s/\.[ch]$//r;
    for my $included (slurp($file) =~ /^#include "(\w+)\.h"/mg) {
        next if $included eq $module || $included eq 'config';
        push @climbs, "$module includes $included" if ($layer{$included} // 99) >= ($layer{$module} // 0);
    }
}
is join("\n", @climbs), '', 'a module includes only modules of lower layers';

# ---- libpq under the locks: only the modules that may call it do ----
my %may_call = map { $_ => 1 } qw(activity cancel dial escape hint hosts remains role session target transport connector run ticket);
my @callers;
for my $file (glob "$srcdir/src/*.c") {
    my $module = basename($file, '.c');
    my $text = slurp($file) =~ s{/\*.*?\*/}{}gsr;
    push @callers, $module if $text =~ /\bPQ(?!POOL)[a-z]\w*\(/ && !$may_call{$module};
}
is "@callers", '', 'only activity, cancel, dial, escape, hint, hosts, remains, role, session, target, transport, connector, run and ticket call libpq';

# ---- time: one clock ----
my @clocks = grep { my $m = basename($_, '.c'); $m ne 'clock' && slurp($_) =~ /\b(?:clock_gettime|gettimeofday|time)\((?!r)/ }
    glob "$srcdir/src/*.c";
is "@clocks", '', 'only the clock module asks the system for the time';

done_testing;
