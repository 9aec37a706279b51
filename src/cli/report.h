/* report: the measured cells as a table or as tab-separated values. */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include "cell.h"

void report_tsv_header(void);
void report_tsv_row(const cell *c);
void report_table(const cell *cells, int n);

#endif
