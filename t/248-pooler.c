/*
 * Two processes, each with a pool, behind one real PgBouncer that lends its server connections for a transaction at a time:
 * what a statement meets in its session is anybody's. Each answer follows from a nonce, and so does each row that is written;
 * the rows are counted at the end, past the pooler. PQPOOL_POOLER_SECONDS says how long (20; 60 and more to look for what is
 * rare).
 */

#include "support/nemesis.h"

#include <sys/mman.h>
#include <sys/wait.h>

enum { PROCESSES = 2, THREADS = 6, MOST = 400000 /* nonces of a process */ };

/* What became of a row, as the library told it. */
enum { NOT_TRIED, WRITTEN, NOT_WRITTEN, NOT_KNOWN };

/* What all processes have in common. */
typedef struct tally {
    _Atomic bool stop, ending; /* ending: server connections are being ended */
    _Atomic int64_t next[PROCESSES], asked[PROCESSES], answers, errors_of_the_server, late, lost,
        healed_in_vain;
    _Atomic int wrong, unclear;
    _Atomic unsigned char fate[PROCESSES * MOST];
} tally;

static tally *all;
static int process; /* which one this is */

typedef struct user {
    pqpool *pool;
    uint64_t seed;
} user;

static unsigned draw(user *u)
{
    u->seed = u->seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(u->seed >> 33);
}

/* 0: there are no more. */
static int64_t nonce(void)
{
    int64_t n = all->next[process]++;
    return n < MOST ? process * MOST + n : 0;
}

static void wrong(int64_t n, const char *sql, const PGresult *res, const pqpool_error *err)
{
    if (all->wrong++ == 0)
        diag("WRONG: nonce %lld, %s: %s, %d rows, first '%s', %s", (long long)n, sql,
             pqpool_code_name((pqpool_code)err->code), PQntuples(res), value(res), err->message);
}

/* An error that is no answer: true if it is one that the contract tells of, and says what is wrong. */
static void failed(int64_t n, const char *sql, const pqpool_error *err)
{
    bool pooler_speaks = strncmp(err->sqlstate, "08", 2) == 0;
    switch (err->code) {
    case PQPOOL_ETIMEDOUT:
        all->late++;
        return;
    case PQPOOL_ELOST:
    case PQPOOL_ECONNECT:
        all->lost++;
        if (all->ending && err->message[0])
            return;
        break;
    case PQPOOL_ESERVER:
        all->errors_of_the_server++;
        if (strcmp(err->sqlstate, "57014") == 0 ||
            (all->ending && (strcmp(err->sqlstate, "57P01") == 0 || pooler_speaks)))
            return;
        if (strcmp(err->sqlstate, "26000") == 0 || strcmp(err->sqlstate, "42P05") == 0)
            all->healed_in_vain++;
        break;
    default:
        break;
    }
    if (all->unclear++ == 0)
        diag("UNCLEAR: nonce %lld, %s: %s, outcome %d, %s %s", (long long)n, sql,
             pqpool_code_name((pqpool_code)err->code), err->outcome, err->sqlstate, err->message);
}

/* ---- reading: shapes, and texts of which each process has its own ---- */

enum { ROW, TEXT, ROWS, ERROR, NOTHING, SHAPES, TEXTS = 12 };

static void statement(char *sql, size_t size, int64_t n)
{
    static const char *const shapes[SHAPES] = {
        "select $1::bigint, $1::bigint % 1000",
        "select $1::text || '!'",
        "select $1::bigint, i from generate_series(1, 1 + ($1::bigint % 5)::int) i",
        "select ('no ' || $1)::int",
        "select $1::bigint where $1::bigint < 0",
    };
    int64_t own = n / SHAPES % 2 ? process : 9;
    snprintf(sql, size, "/* %d, %d */ %s", (int)own, (int)(n / SHAPES / 2 % TEXTS), shapes[n % SHAPES]);
}

static bool right(int64_t n, const PGresult *res, const pqpool_error *err)
{
    char want[40];
    snprintf(want, sizeof want,
             n % SHAPES == TEXT    ? "%lld!"
             : n % SHAPES == ERROR ? "\"no %lld\""
                                   : "%lld",
             (long long)n);
    switch (n % SHAPES) {
    case ROW:
        return PQntuples(res) == 1 && PQnfields(res) == 2 && strcmp(value(res), want) == 0 &&
               atoll(PQgetvalue(res, 0, 1)) == n % 1000;
    case TEXT:
        return PQntuples(res) == 1 && PQnfields(res) == 1 && strcmp(value(res), want) == 0;
    case ROWS:
        return PQntuples(res) == 1 + n % 5 && PQnfields(res) == 2 && strcmp(value(res), want) == 0;
    case ERROR:
        return err->code == PQPOOL_ESERVER && strcmp(err->sqlstate, "22P02") == 0 &&
               strstr(err->message, want);
    default:
        return err->code == PQPOOL_OK && PQntuples(res) == 0 && PQnfields(res) == 1;
    }
}

static void judge(int64_t n, const char *sql, PGresult *res, const pqpool_error *err)
{
    bool answer = err->code == PQPOOL_OK ||
                  (err->code == PQPOOL_ESERVER && n % SHAPES == ERROR && strcmp(err->sqlstate, "22P02") == 0);
    all->answers += answer;
    if (!answer)
        failed(n, sql, err);
    else if (!right(n, res, err))
        wrong(n, sql, res, err);
    PQclear(res);
}

static unsigned some_flags(user *u)
{
    return (draw(u) % 4 == 0 ? PQPOOL_NO_PREPARE : 0) | (draw(u) % 4 == 0 ? PQPOOL_READ_ONLY : 0);
}

static void read_one(user *u)
{
    char sql[200], number[24];
    int64_t n = nonce();
    pqpool_error err;
    statement(sql, sizeof sql, n);
    snprintf(number, sizeof number, "%lld", (long long)n);
    pqpool_stmt s = {PQPOOL_STMT, .sql = sql, PQPOOL_PARAMS(number), .flags = some_flags(u),
                     .timeout_ms = draw(u) % 3 == 0 ? 3000 : 0};
    PGresult *res = NULL;
    if (draw(u) % 2 == 0) {
        res = pqpool_exec_stmt(u->pool, &s, &err);
    } else {
        pqpool_ticket *ticket = pqpool_submit(u->pool, &s, &err);
        if (ticket)
            res = pqpool_wait(ticket, -1, &err);
    }
    judge(n, sql, res, &err);
}

static void read_group(user *u)
{
    enum { SIZE = 9 };
    char sql[SIZE][200], numbers[SIZE][24];
    const char *values[SIZE];
    int64_t n[SIZE];
    pqpool_stmt stmts[SIZE];
    PGresult *results[SIZE];
    pqpool_error errors[SIZE];
    bool atomic = draw(u) % 2;
    for (int i = 0; i < SIZE; i++) {
        n[i] = nonce();
        n[i] -= atomic && n[i] % SHAPES == ERROR ? 1 : 0; /* one that fails would undo the others */
        statement(sql[i], sizeof sql[i], n[i]);
        snprintf(numbers[i], sizeof numbers[i], "%lld", (long long)n[i]);
        values[i] = numbers[i];
        stmts[i] = (pqpool_stmt){PQPOOL_STMT, .sql = sql[i], .n_params = 1, .param_values = &values[i],
                                 .flags = some_flags(u)};
    }
    pqpool_code code =
        pqpool_exec_all(u->pool, stmts, SIZE, atomic ? PQPOOL_ATOMIC : PQPOOL_EACH, results, errors);
    for (int i = 0; i < SIZE; i++) {
        if (atomic && code != PQPOOL_OK && errors[i].code == PQPOOL_ECANCELED)
            PQclear(results[i]); /* another's failure, which is judged there */
        else
            judge(n[i], sql[i], results[i], &errors[i]);
    }
}

/* ---- writing: rows without a key, so that one written twice is there twice ---- */

static void note_fate(int64_t n, const char *sql, const pqpool_error *err)
{
    if (err->code == PQPOOL_OK)
        all->fate[n] = WRITTEN;
    else if (err->outcome == PQPOOL_UNKNOWN)
        all->fate[n] = NOT_KNOWN;
    else
        all->fate[n] = NOT_WRITTEN;
    if (err->code == PQPOOL_OK)
        all->answers++;
    else
        failed(n, sql, err);
}

static void write_one(user *u)
{
    static const char *const texts[] = {
        "insert into pooler_rows values ($1::bigint)",
        "insert into pooler_rows select $1::bigint from pg_sleep(0.02)",
        "insert into pooler_rows values ($1::bigint) returning n",
    };
    char number[24];
    int64_t n = nonce();
    pqpool_error err;
    if (n == 0)
        return;
    snprintf(number, sizeof number, "%lld", (long long)n);
    pqpool_stmt s = {PQPOOL_STMT, .sql = texts[draw(u) % 3], PQPOOL_PARAMS(number),
                     .flags = draw(u) % 4 == 0 ? PQPOOL_NO_PREPARE : 0};
    s.timeout_ms = draw(u) % 3 == 0 ? 5 + (int)(draw(u) % 60) : 0;
    PGresult *res = pqpool_exec_stmt(u->pool, &s, &err);
    if (err.code == PQPOOL_OK && s.sql == texts[2] && strcmp(value(res), number) != 0)
        wrong(n, s.sql, res, &err);
    note_fate(n, s.sql, &err);
    PQclear(res);
}

/* A pair that stands or falls together, and one that always falls. */
static void write_pair(user *u)
{
    char numbers[2][24];
    int64_t n[2] = {nonce(), nonce()};
    pqpool_stmt stmts[3];
    PGresult *results[3];
    pqpool_error errors[3];
    bool fails = draw(u) % 3 == 0;
    if (n[0] == 0 || n[1] == 0)
        return;
    for (int i = 0; i < 2; i++)
        snprintf(numbers[i], sizeof numbers[i], "%lld", (long long)n[i]);
    stmts[0] = (pqpool_stmt){PQPOOL_STMT, .sql = "insert into pooler_rows values ($1::bigint)",
                             PQPOOL_PARAMS(numbers[0])};
    stmts[1] = (pqpool_stmt){PQPOOL_STMT, .sql = "insert into pooler_rows values ($1::bigint) returning n",
                             PQPOOL_PARAMS(numbers[1])};
    stmts[2] = (pqpool_stmt){PQPOOL_STMT, .sql = "select 1 / $1::int", PQPOOL_PARAMS("0")};
    (void)!pqpool_exec_all(u->pool, stmts, fails ? 3 : 2, PQPOOL_ATOMIC, results, errors);
    for (int i = 0; i < (fails ? 3 : 2); i++) {
        bool undone = fails && (errors[2].code == PQPOOL_ESERVER && strcmp(errors[2].sqlstate, "22012") == 0);
        if (i < 2 && undone)
            all->fate[n[i]] = errors[i].code == PQPOOL_ECANCELED && errors[i].outcome == PQPOOL_DONE
                                  ? NOT_WRITTEN
                                  : WRITTEN;
        else if (i < 2 && errors[i].code == PQPOOL_ECANCELED)
            all->fate[n[i]] = errors[i].outcome == PQPOOL_UNKNOWN ? NOT_KNOWN : NOT_WRITTEN;
        else if (i < 2)
            note_fate(n[i], stmts[i].sql, &errors[i]);
        PQclear(results[i]);
    }
}

static void write_on_lease(user *u)
{
    char number[24];
    int64_t n = nonce();
    pqpool_lease lease = {0};
    pqpool_error err;
    if (n == 0)
        return;
    snprintf(number, sizeof number, "%lld", (long long)n);
    if (pqpool_acquire(u->pool, &lease, &err) != PQPOOL_OK) {
        all->fate[n] = NOT_WRITTEN;
        failed(n, "a lease", &err);
        return;
    }
    const char *values[] = {number};
    PQclear(PQexec(lease.conn, "begin"));
    PGresult *res = PQexecParams(lease.conn, "insert into pooler_rows values ($1) returning n", 1, NULL,
                                 values, NULL, NULL, 0);
    bool written = PQresultStatus(res) == PGRES_TUPLES_OK;
    if (written && strcmp(value(res), number) != 0)
        wrong(n, "on a lease", res, &err);
    PQclear(res);
    bool commit = draw(u) % 4 != 0;
    res = PQexec(lease.conn, commit ? "commit" : "rollback");
    bool ended = PQresultStatus(res) == PGRES_COMMAND_OK;
    all->fate[n] = !written || !commit                                ? NOT_WRITTEN
                   : ended && strcmp(PQcmdStatus(res), "COMMIT") == 0 ? WRITTEN
                                                                      : NOT_KNOWN;
    if (!written && !all->ending && all->unclear++ == 0)
        diag("UNCLEAR: on a lease: %s", PQerrorMessage(lease.conn));
    PQclear(res);
    pqpool_release(&lease);
}

static void *use(void *arg)
{
    user *u = arg;
    while (!all->stop && all->next[process] < MOST - 20) {
        all->asked[process]++;
        switch (draw(u) % 8) {
        case 0:
            write_one(u);
            break;
        case 1:
            write_pair(u);
            break;
        case 2:
            write_on_lease(u);
            break;
        case 3:
            read_group(u);
            break;
        default:
            read_one(u);
        }
    }
    return NULL;
}

static void run_process(int which)
{
    pthread_t threads[THREADS];
    user users[THREADS];
    pqpool *pool = open_pool("application_name=pooler", NULL);
    process = which;
    for (int i = 0; i < THREADS; i++) {
        users[i] = (user){.pool = pool, .seed = (uint64_t)(which * THREADS + i + 1)};
        pthread_create(&threads[i], NULL, use, &users[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    close_pool(pool);
}

/* ---- the pooler, the rows ---- */

static bool has_pooler(void)
{
    return system("PATH=$PATH:/usr/sbin; command -v pgbouncer >/dev/null 2>&1") == 0;
}

/* Starts this program again behind a PgBouncer, with what leads past it in variables of its own. */
static void again_with_pooler(PGconn *direct, char *program)
{
    char conninfo[1000], script[4096];
    snprintf(script, sizeof script, "%.*s/../bench/with-pgbouncer",
             (int)(strlen(WITH_PG) - strlen("/with-pg")), WITH_PG);
    snprintf(conninfo, sizeof conninfo, "host='%s' port=%s user='%s' dbname='%s'", PQhost(direct),
             PQport(direct), PQuser(direct), PQdb(direct));
    setenv("PQPOOL_TEST_DIRECT", conninfo, 1);
    setenv("PGHOST", PQhost(direct), 1);
    setenv("PGPORT", PQport(direct), 1);
    setenv("PGUSER", PQuser(direct), 1);
    setenv("PGDATABASE", PQdb(direct), 1);
    PQfinish(direct);
    alarm(0);
    execl("/bin/sh", "sh", script, "default_pool_size=4", program, (char *)NULL);
    bail("exec: %s", strerror(errno));
}

/* How often each row is there, against what was told of it. */
static void count_rows(PGconn *c)
{
    int64_t missing = 0, twice = 0, unasked = 0, written = 0, unknown = 0;
    unsigned char *times = calloc(PROCESSES * MOST, 1);
    PGresult *res = PQexec(c, "select n from pooler_rows");
    if (!times || PQresultStatus(res) != PGRES_TUPLES_OK)
        bail("the rows cannot be read: %s", PQerrorMessage(c));
    for (int i = 0; i < PQntuples(res); i++)
        times[atoll(PQgetvalue(res, i, 0))]++;
    PQclear(res);
    for (int64_t n = 0; n < PROCESSES * MOST; n++) {
        int fate = all->fate[n];
        written += fate == WRITTEN;
        unknown += fate == NOT_KNOWN;
        missing += fate == WRITTEN && times[n] == 0;
        twice += times[n] > 1;
        unasked += times[n] > 0 && (fate == NOT_TRIED || fate == NOT_WRITTEN);
    }
    free(times);
    ok(written > 0, "rows are written through the pooler");
    is_int(missing, 0, "each row that was told to be written is there");
    is_int(twice, 0, "no row is there twice");
    is_int(unasked, 0, "no row is there that was told not to be");
    diag("%lld rows written, of %lld it is not known", (long long)written, (long long)unknown);
}

/* In some sessions of the pooler's. */
static int prepared_behind_pooler(void)
{
    int n = 0;
    PGconn *c = PQconnectdb("");
    if (PQstatus(c) != CONNECTION_OK)
        bail("the pooler: %s", PQerrorMessage(c));
    for (int i = 0; i < 8; i++)
        n += atoi(one(c, "select count(*) from pg_prepared_statements"));
    PQfinish(c);
    return n;
}

static void end_some(PGconn *c)
{
    one(c, "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' "
           "and application_name <> 'control' order by random() limit 1");
}

int main(int argc, char **argv)
{
    (void)argc;
    const char *more = getenv("PQPOOL_POOLER_SECONDS");
    double seconds = more && atof(more) > 0 ? atof(more) : 20;
    tap_begin((unsigned)seconds * 2 + 60);
    if (!has_pooler())
        skip_all("PgBouncer is not installed");
    PGconn *c = control();
    if (!getenv("PQPOOL_TEST_DIRECT"))
        again_with_pooler(c, argv[0]);
    PQfinish(c);
    c = PQconnectdb(getenv("PQPOOL_TEST_DIRECT"));
    one(c, "set application_name = control");
    one(c, "create table pooler_rows (n bigint)");
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        bail("mmap: %s", strerror(errno));

    pid_t pids[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        all->next[i] = 1;
        fflush(stdout);
        pids[i] = fork();
        if (pids[i] == 0) {
            alarm(0);
            run_process(i);
            fflush(stdout);
            _exit(tap_failed ? 1 : 0);
        }
    }
    double begin = now_s();
    while (now_s() - begin < seconds * 0.7)
        sleep_ms(20);
    int64_t lost_before = all->lost;
    is_int(lost_before, 0, "no connection is lost as long as none is ended");
    all->ending = true;
    while (now_s() - begin < seconds) {
        end_some(c);
        sleep_ms(300);
    }
    all->stop = true;
    for (int i = 0; i < PROCESSES; i++) {
        int status = -1;
        waitpid(pids[i], &status, 0);
        is_int(status, 0, "process %d ends well", i + 1);
        ok(all->asked[i] > 100, "process %d has been served", i + 1);
    }
    is_int(all->wrong, 0,
           "each answer is that of its own statement, although sessions are shared between processes");
    is_int(all->unclear, 0, "what fails is told as documented");
    is_int(all->healed_in_vain, 0, "no caller meets another process's prepared statements");
    count_rows(c);
    is_int(prepared_behind_pooler(), 0, "no prepared statement is left in the sessions that others use next");
    diag("%lld answers, %lld errors of the server, %lld late, %lld lost", (long long)all->answers,
         (long long)all->errors_of_the_server, (long long)all->late, (long long)all->lost);
    one(c, "drop table pooler_rows");
    PQfinish(c);
    return done_testing();
}
