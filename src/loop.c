#include "loop.h"

enum { LANES_AT_ONCE = 16 };

/* Reads what a lane has; where more comes fast, again in a moment (call.c says why). */
static void visit(pqpool *p, pqp_lane *lane)
{
    if (pqp_lane_visit(lane))
        pqp_delivery_call_soon(&p->delivery, 3 * PQP_GATHER_TIME);
}

/* Of what these hold, the loop has not heard. */
static void come_by_itself(pqpool *p)
{
    int top = pqp_load(&p->n_lanes_top);
    for (int i = 0; i < top; i++) {
        pqp_lane *lane = pqp_load(&p->lanes[i]);
        if (lane && pqp_lane_forsaken(lane))
            visit(p, lane);
    }
}

/* What was told is fetched first: a visit may ask to be called again, and that must not be taken for told. */
static void read_answers(pqpool *p)
{
    void *lanes[LANES_AT_ONCE];
    int n = pqp_delivery_sources(&p->delivery, lanes, LANES_AT_ONCE);
    come_by_itself(p);
    for (int i = 0; i < n; i++) /* lanes outlive their connections */
        visit(p, lanes[i]);
}

/* A callback may dispatch; one that is run by that may again; but each stands on the stack of the one before. */
enum { NESTED_MOST = 16 };
static PQP_THREAD_LOCAL int nested;

static int dispatch(pqpool *p)
{
    int n = 0;
    if (pqp_load(&p->delivery.looped) >= 0)
        read_answers(p);
    /* Those that are ready now; what their callbacks bring about is for the next time, or it might never end. */
    for (int ready = pqp_delivery_count(&p->delivery); ready > 0; ready--) {
        pqp_parcel *parcel = pqp_delivery_take(&p->delivery);
        if (!parcel)
            break;
        n += parcel->open(parcel);
    }
    return n;
}

int pqp_loop_dispatch(pqpool *p)
{
    if (nested == NESTED_MOST)
        return -(int)PQPOOL_EBUSY;
    nested++;
    int n = dispatch(p);
    nested--;
    return n;
}
