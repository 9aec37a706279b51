#include "role.h"

#define SETTLED INT64_C(1000000000)

bool pqp_role_is_on(const char *value)
{
    return value && strcmp(value, "on") == 0;
}

bool pqp_role_is_lost(const PGconn *conn, pqp_attrs attrs, bool refused, int64_t age)
{
    bool writes = attrs == PQP_ATTRS_READ_WRITE || attrs == PQP_ATTRS_PRIMARY;
    if (!refused && (attrs == PQP_ATTRS_ANY || attrs == PQP_ATTRS_PREFER_STANDBY))
        return false;
    const char *standby = PQparameterStatus(conn, "in_hot_standby"),
               *read_only = PQparameterStatus(conn, "default_transaction_read_only");
    bool is_standby = pqp_role_is_on(standby), is_closed = is_standby || pqp_role_is_on(read_only);
    if (attrs == PQP_ATTRS_READ_WRITE && is_closed)
        return true;
    if (attrs == PQP_ATTRS_PRIMARY && is_standby)
        return true;
    if (attrs == PQP_ATTRS_STANDBY && standby && !is_standby)
        return true;
    if (attrs == PQP_ATTRS_READ_ONLY && standby && read_only && !is_closed)
        return true;
    bool counts = refused && (is_standby || (writes && (is_closed || !standby)));
    return counts && age >= SETTLED;
}
