/*
 * text: what messages, events and log lines are made of: one line, cut between characters, the same in every locale.
 */
#ifndef PQP_TEXT_H
#define PQP_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdarg.h>

/* As vsnprintf(), but what does not fit is cut between two characters of UTF-8. Returns how many bytes there are. */
size_t pqp_text_print(char *buf, size_t size, const char *fmt, va_list args);

/* One line of several: their ends become a blank, or a semicolon and a blank where there is room, other control characters a blank. */
void pqp_text_one_line(char *text);

/* A copy that is one line, cut between two characters of UTF-8. */
void pqp_text_copy(char *buf, size_t size, const char *text);

/* Tenths of a unit, which has so many microseconds: printf's %f would follow the locale. us is not negative. */
#define PQP_TENTHS "%lld.%d"
#define PQP_TENTHS_OF(us, unit)                                                                              \
    (long long)(((us) + (unit) / 20) / (unit)), (int)(((us) + (unit) / 20) / ((unit) / 10) % 10)
#define PQP_MS_IN_US 1000
#define PQP_S_IN_US 1000000

#endif
