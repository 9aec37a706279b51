/*
 * delay: runs a command as if its server were farther away; bench/with-delay calls it.
 *
 *     delay MS COMMAND [ARGUMENT]...
 *
 * The command finds the server by PGHOST and PGPORT, behind the proxy of `pqpool demo --rtt`, which adds MS to each
 * round trip. Its exit status is the command's. BENCH_NEAR_HOST and BENCH_NEAR_PORT lead there without the delay.
 */
#include "bench.h"

#include "cli/delayproxy.h"

#include <signal.h>
#include <sys/wait.h>

static void keep_near(PGconn *conn)
{
    setenv("BENCH_NEAR_HOST", PQhost(conn), 1);
    setenv("BENCH_NEAR_PORT", PQport(conn), 1);
}

static void go_by(const target_route *route)
{
    setenv("PGHOST", route->host, 1);
    setenv("PGPORT", route->port, 1);
    if (route->hostaddr)
        setenv("PGHOSTADDR", route->hostaddr, 1);
    else
        unsetenv("PGHOSTADDR");
}

static int run(char **command)
{
    int status = 0;
    pid_t child = fork();
    must(child >= 0, "fork: %s", strerror(errno));
    if (child == 0) {
        execvp(command[0], command);
        die("%s: %s", command[0], strerror(errno));
    }
    /* From the terminal they come to the command as well; the proxy's directory is to be removed after it. */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    while (waitpid(child, &status, 0) < 0)
        must(errno == EINTR, "waitpid: %s", strerror(errno));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
    char *end = NULL;
    double ms = argc >= 3 ? strtod(argv[1], &end) : -1;
    must(argc >= 3 && *end == '\0' && ms >= 0, "usage: delay MS COMMAND [ARGUMENT]...");
    PGconn *conn = PQconnectdb("application_name=delay"); /* with no options: a pooler may not know them */
    must(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
    delayproxy *proxy = delayproxy_start(conn, ms);
    must(proxy, "no proxy");
    keep_near(conn);
    go_by(delayproxy_route(proxy));
    PQfinish(conn);
    int status = run(&argv[2]);
    delayproxy_stop(proxy);
    return status;
}
