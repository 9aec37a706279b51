# private: what the scripts share that start servers of their own (t/with-pg, bench/server, bench/with-pgbouncer): nothing
# of what the environment says about servers reaches theirs. To be read by `.`; sets owner, as, dir and sockets.

# Unsets each variable that libpq or PostgreSQL's programs read (PGSERVICE, PGHOSTADDR, PGOPTIONS ...), but those named. All are
# unset by their prefix: a later libpq knows more of them. PG_BINDIR is not theirs.
forget_servers_but() {
    for name in $(env | sed -n 's/^\(PG[A-Za-z0-9_]*\)=.*/\1/p'); do
        case " PG_BINDIR $* " in
        *" $name "*) ;;
        *) unset "$name" ;;
        esac
    done
}

# Started by root, a server runs as another user: `as` is what is put before its commands.
choose_owner() {
    as=
    owner=$(id -un)
    if [ "$(id -u)" = 0 ]; then
        owner=${PQPOOL_PG_OWNER:-postgres}
        as="runuser -u $owner --"
    fi
}

# A directory that the owner can reach; fails where there is none in that place.
try_directory() {
    made=$(mktemp -d "$1/$2.XXXXXX") || return 1
    if chown "$owner" "$made" && chmod 755 "$made" && (cd / && $as test -x "$made"); then
        return 0
    fi
    rm -rf "$made"
    return 1
}

# make_directories NAME: `dir` for files, in TMPDIR, and `sockets`, the same one, unless its name is too long for a socket (107
# bytes with "/.s.PGSQL.65432.lock"), or has what lists of hosts and directories read as something else (blanks, commas).
# pg_ctl puts names between double quotes in a shell's command, so what has a meaning there is not used at all.
make_directories() {
    dir= sockets=
    base=${TMPDIR:-/tmp}
    case $base in
    /*) ;;
    *) base=$PWD/$base ;;
    esac
    case $base in
    *[\"\$\`\\]*) base=/tmp ;;
    esac
    try_directory "$base" "$1" 2>/dev/null || try_directory /tmp "$1" || return 1
    dir=$made sockets=$made
    if [ "$(printf %s "$dir" | wc -c)" -gt 87 ] || printf %s "$dir" | LC_ALL=C grep -q '[^A-Za-z0-9/._-]'; then
        try_directory /tmp "$1" || return 1
        sockets=$made
    fi
}

# clean_up_by FUNCTION: runs it at the end, however that comes; what ends by a signal ends by that signal, as a caller
# that is to stop at Ctrl-C wants to see it.
clean_up_by() {
    ending=$1 signal=
    trap 'end_now' EXIT
    trap 'signal=HUP; exit 129' HUP
    trap 'signal=INT; exit 130' INT
    trap 'signal=TERM; exit 143' TERM
}

end_now() {
    rc=$?
    trap - EXIT
    trap '' HUP INT TERM
    "$ending"
    trap - HUP INT TERM
    [ -z "$signal" ] || kill -s "$signal" $$
    exit $rc
}
