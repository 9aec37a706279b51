# Peers: the pools that a service would use instead, as far as they are here; what they are and what their programs take:
# bench/peers/README.md.
package Peers;
use strict;
use warnings;
use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(dirname);
use File::Path qw(make_path);
our @EXPORT_OK = qw(available missing);

my $bench = abs_path(dirname(__FILE__) . '/..');
my $gocode = '/usr/share/gocode'; # where Debian's packages for Go put their sources
use filetest 'access'; # root, too, can't write to what is mounted to be read
my $npm_ci = 'npm ci --prefix bench/peers' . (-w "$bench/peers" ? '' : ', in a copy of the sources that can be written');

# name, kind; why_not: what there is to do first, or nothing; make: builds it, false if that fails; log: where it says why;
# version; commands: by the name of the contender, program and leading arguments.
my @peers = (
    {
        name => 'libzdb', kind => 'threads',
        why_not => \&why_not_zdb, version => sub { first_line('pkg-config', '--modversion', 'zdb') },
        make => sub { make_program($_[0], 'bench/peers/zdb') },
        commands => sub {
            (['libzdb', "$_[0]/bench/peers/zdb", 'prepared'], ['libzdb, unprepared', "$_[0]/bench/peers/zdb", 'query']);
        },
    },
    {
        name => 'pgxpool', kind => 'go',
        why_not => \&why_not_go, version => sub { package_version('golang-github-jackc-pgx-v4-dev') },
        make => \&make_pgxpool,
        commands => sub { ['pgxpool', "$_[0]/bench/peers/pgxpool"] },
    },
    {
        name => 'postgres.js', kind => 'node',
        why_not => sub { why_not_node('postgres') }, version => sub { node_version('postgres') },
        commands => sub { ['postgres.js', 'node', "$bench/peers/postgres_js.mjs"] },
    },
    {
        name => 'pg-pool', kind => 'node',
        why_not => sub { why_not_node('pg-pool') }, version => sub { node_version('pg-pool') },
        commands => sub { ['pg-pool', 'node', "$bench/peers/pg_pool.mjs"] },
    },
    {
        name => 'PgBouncer', kind => 'pooler',
        why_not => sub { program('pgbouncer') ? undef : 'apt-get install pgbouncer' }, version => \&pgbouncer_version,
        make => sub { make_program($_[0], 'bench/load') },
        commands => sub { ['PgBouncer', "$bench/peers/through_pgbouncer", "$_[0]/bench/load", qw(raw --unprepared)] },
    },
);

# Those that can run, built: {name, command => [program and leading arguments], version, kind}.
sub available {
    my ($builddir) = @_;
    return map { contenders($_, $builddir) } grep { !obstacle($_, $builddir) } @peers;
}

# The others: {name, how}, how to get it.
sub missing {
    my ($builddir) = @_;
    return map { my $how = obstacle($_, $builddir); $how ? { name => $_->{name}, how => $how } : () } @peers;
}

sub contenders {
    my ($peer, $builddir) = @_;
    my $version = $peer->{version}->();
    my @contenders;
    for ($peer->{commands}->($builddir)) {
        my ($name, @command) = @$_;
        push @contenders, { name => $name, command => \@command, version => $version, kind => $peer->{kind} };
    }
    return @contenders;
}

# Building is tried once for each build directory.
sub obstacle {
    my ($peer, $builddir) = @_;
    return $peer->{obstacle}{$builddir} //= find_obstacle($peer, $builddir) // '';
}

sub find_obstacle {
    my ($peer, $builddir) = @_;
    my $why_not = $peer->{why_not}->($builddir);
    return $why_not if $why_not || !$peer->{make};
    return $peer->{make}->($builddir) ? undef : 'its program does not build: see ' . log_of($builddir);
}

# ---- libzdb ----

sub why_not_zdb {
    my ($builddir) = @_;
    return 'apt-get install libzdb-dev, and configure again'
        if !program('pkg-config') || system('pkg-config --exists zdb 2>/dev/null') != 0;
    return contents("$builddir/Makefile") =~ /^ZDB_LIBS = \S/m ? undef : 'configure again: it was not there before';
}

sub make_program {
    my ($builddir, $target) = @_;
    return quietly($builddir, 'make', '-s', '-C', $builddir, $target);
}

# ---- Go ----

sub why_not_go {
    my @packages = (program('go') ? () : 'golang-go',
        -d "$gocode/src/github.com/jackc/pgx/v4/pgxpool" ? () : 'golang-github-jackc-pgx-v4-dev');
    return @packages ? "apt-get install @packages" : undef;
}

# Go itself looks whether it is up to date.
sub make_pgxpool {
    my ($builddir) = @_;
    my $dir = "$builddir/bench/peers";
    make_path($dir);
    local @ENV{qw(GO111MODULE GOPATH GOCACHE GOFLAGS)} = ('off', $gocode, "$dir/go-cache", '');
    return quietly($builddir, 'go', 'build', '-o', "$dir/pgxpool", "$bench/peers/pgxpool.go");
}

# ---- node ----

sub why_not_node {
    my ($package) = @_;
    return "install node 16 or newer and npm (Debian: apt-get install nodejs npm), then $npm_ci" unless program('node');
    return -e "$bench/peers/node_modules/$package/package.json" ? undef : $npm_ci;
}

sub node_version {
    my ($package) = @_;
    return contents("$bench/peers/node_modules/$package/package.json") =~ /^\s*"version": "([^"]+)"/m ? $1 : '';
}

# ---- what they share ----

sub package_version {
    my ($package) = @_;
    return first_line('dpkg-query', '-W', '-f', '${Version}\n', $package);
}

sub pgbouncer_version {
    return first_line(program('pgbouncer'), '--version') =~ /^PgBouncer (\S+)/ ? $1 : '';
}

# Where it is; nothing if it is nowhere.
sub program {
    my ($name) = @_;
    return (grep { -x && !-d } map { "$_/$name" } split(/:/, $ENV{PATH} // ''), '/usr/sbin')[0];
}

# Empty if the command fails.
sub first_line {
    my @command = @_;
    my $pid = open(my $out, '-|') // die "fork: $!\n";
    if ($pid == 0) {
        open STDERR, '>', '/dev/null';
        exec { $command[0] } @command or exit 127;
    }
    my $line = <$out> // '';
    close $out;
    chomp $line;
    return $line;
}

sub contents {
    my ($path) = @_;
    open my $in, '<', $path or return '';
    local $/;
    return <$in> // '';
}

sub log_of {
    my ($builddir) = @_;
    return "$builddir/bench/peers/build.log";
}

# True if the command succeeds; what it says goes to the log.
sub quietly {
    my ($builddir, @command) = @_;
    make_path("$builddir/bench/peers");
    my $pid = fork() // die "fork: $!\n";
    if ($pid == 0) {
        open STDOUT, '>>', log_of($builddir) or exit 127;
        open STDERR, '>&', \*STDOUT;
        print "+ @command\n";
        exec { $command[0] } @command or exit 127;
    }
    waitpid $pid, 0;
    return $? == 0;
}

1;
