/* report: the measured cells as a table or as tab-separated values. */
#include "report.h"

#include <stdio.h>

void report_tsv_header(void)
{
    puts("mode\trtt_ms\tstatements\tusers\tconnections_peak\trequests_per_s\tp50_ms\tp99_ms\terrors");
}

void report_tsv_row(const cell *c)
{
    printf("%s\t%g\t%d\t%d\t%d\t%.1f\t%.3f\t%.3f\t%ld\n", request_mode_name(c->mode), c->rtt_ms,
           c->statements, c->users, c->connections_peak, c->requests_per_s, c->p50_ms, c->p99_ms, c->errors);
    fflush(stdout);
}

void report_table(const cell *cells, int n)
{
    /* 80 columns; the whole names are those of the TSV format */
    printf("%-11s%7s%11s%6s%12s%11s%7s%8s%7s\n", "mode", "rtt_ms", "statements", "users", "connections",
           "requests/s", "p50_ms", "p99_ms", "errors");
    for (int i = 0; i < n; i++) {
        const cell *c = &cells[i];
        if (i > 0 && (c->rtt_ms != c[-1].rtt_ms || c->statements != c[-1].statements))
            putchar('\n');
        printf("%-11s%7g%11d%6d%12d%11.0f%7.2f%8.2f%7ld\n", request_mode_name(c->mode), c->rtt_ms,
               c->statements, c->users, c->connections_peak, c->requests_per_s, c->p50_ms, c->p99_ms,
               c->errors);
    }
}
