/* progress: a bar on stderr, and complaints that do not tear it apart. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

/* Shows how much of the whole is done; nothing unless stderr is a terminal. One thread at a time. */
void progress_show(const char *what, double done, double whole);

/* Removes the bar. */
void progress_clear(void);

/* Writes "pqpool demo: ..." and a newline to stderr. Thread-safe. */
void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
