/*
 * server: what tests need that stop their server, start it again, or change who may connect: one of their own, also on a
 * TCP port.
 */
#ifndef SUPPORT_SERVER_H
#define SUPPORT_SERVER_H

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <pwd.h>

#include "pg.h"

__attribute__((unused)) static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &size) != 0)
        bail("no free port: %s", strerror(errno));
    close(fd);
    return ntohs(at.sin_port);
}

/* Sees to it that this program runs with a server of its own that also listens on this address, and has these many
 * connections. Returns the port. */
__attribute__((unused)) static int own_server(char *program, const char *address, int connections)
{
    const char *port = getenv("PQPOOL_TEST_OWN_PORT");
    if (port) {
        setenv("PGPORT", port, 1);
        return atoi(port);
    }
    char number[16], port_setting[32], address_setting[64], connections_setting[64];
    snprintf(number, sizeof number, "%d", free_port());
    snprintf(port_setting, sizeof port_setting, "port=%s", number);
    snprintf(address_setting, sizeof address_setting, "listen_addresses=%s", address);
    snprintf(connections_setting, sizeof connections_setting, "max_connections=%d", connections);
    setenv("PQPOOL_TEST_OWN_PORT", number, 1);
    execl("/bin/sh", "sh", WITH_PG, "-c", address_setting, "-c", port_setting, "-c", connections_setting,
          program, (char *)NULL);
    bail("exec: %s", strerror(errno));
}

/* ---- who may connect ---- */

static void rules_path(char *path, size_t size)
{
    snprintf(path, size, "%s/pg_hba.conf", getenv("PQPOOL_PG_DATA"));
}

/* Puts a line before the server's access rules; "" restores them. */
__attribute__((unused)) static void rule(PGconn *c, const char *line)
{
    static char first_rules[20000];
    static int first_count;
    char path[1000];
    rules_path(path, sizeof path);
    if (!*first_rules) {
        FILE *f = fopen(path, "r");
        size_t n = f ? fread(first_rules, 1, sizeof first_rules - 1, f) : 0;
        if (n == 0)
            bail("can't read %s", path);
        first_rules[n] = '\0';
        fclose(f);
        first_count = atoi(one(c, "select count(*) from pg_hba_file_rules"));
    }
    FILE *f = fopen(path, "w");
    if (!f || fprintf(f, "%s\n%s", line, first_rules) < 0 || fclose(f) != 0)
        bail("can't write %s", path);
    one(c, "select pg_reload_conf()");
    if (!eventually(atoi(one(c, "select count(*) from pg_hba_file_rules")) == first_count + (*line != '\0')))
        bail("the rules are not read");
    sleep_ms(100); /* the postmaster reads them when the signal comes; it can't be asked */
}

/* ---- the server as a whole ---- */

__attribute__((unused)) static pid_t postmaster(void)
{
    char path[1000];
    int pid = 0;
    snprintf(path, sizeof path, "%s/postmaster.pid", getenv("PQPOOL_PG_DATA"));
    FILE *f = fopen(path, "r");
    if (!f || fscanf(f, "%d", &pid) != 1)
        bail("can't read %s", path);
    fclose(f);
    return pid;
}

/* Has pg_ctl do something, as the server's owner. "restart" also starts a server that is stopped, as it was started first. */
__attribute__((unused)) static void pg_ctl(const char *what)
{
    char as[200] = "", command[3000];
    const char *data = getenv("PQPOOL_PG_DATA");
    struct stat st;
    if (!data || stat(data, &st) != 0)
        bail("the server's directory is not known");
    struct passwd *owner = getpwuid(st.st_uid);
    if (geteuid() == 0 && owner)
        snprintf(as, sizeof as, "runuser -u %s --", owner->pw_name);
    snprintf(command, sizeof command, "cd / && %s pg_ctl -s -w -D '%s' -l '%s' %s </dev/null >/dev/null 2>&1",
             as, data, getenv("PQPOOL_PG_LOG"), what);
    if (system(command) != 0)
        bail("%s", command);
}

#endif
