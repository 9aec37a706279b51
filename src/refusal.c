#include "refusal.h"

#include <string.h>

enum { FINAL = 'F', PASSING = 'P' };

bool pqp_refusal_by_sqlstate(const char *sqlstate)
{
    static const char *const final[] = {"28", "3D", "3F", "42", "22", "0A", "55000", "58P01"};
    for (size_t i = 0; i < sizeof final / sizeof *final; i++)
        if (strncmp(sqlstate, final[i], strlen(final[i])) == 0)
            return true;
    return false;
}

bool pqp_refusal_by_text(const char *text)
{
    static const char *const final[] = {"certificate",      "does not support SSL",
                                        "SSL was required", "SSL connection is required",
                                        "channel binding",  "GSSAPI encryption required",
                                        "requirepeer",      "authentication method requirement",
                                        "private key file"};
    for (size_t i = 0; i < sizeof final / sizeof *final; i++)
        if (strstr(text, final[i]))
            return true;
    return false;
}

void pqp_refusal_mark(pqpool_error *err, bool final)
{
    if (err)
        err->pad[0] = final ? FINAL : PASSING;
}

void pqp_refusal_inherit(pqpool_error *err, const pqpool_error *from)
{
    if (err)
        err->pad[0] = from->pad[0];
}

bool pqp_refusal_is_final(const pqpool_error *err)
{
    if (err->pad[0] == FINAL || err->pad[0] == PASSING)
        return err->pad[0] == FINAL;
    return err->code == PQPOOL_ECONNECT && *err->sqlstate && pqp_refusal_by_sqlstate(err->sqlstate);
}
