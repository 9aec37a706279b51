/* demo: `pqpool demo`: the same requests with and without sharing, measured on the user's own server. */
#ifndef CLI_DEMO_H
#define CLI_DEMO_H

/* argv[0] is "demo". Returns the exit status: 0, 1 (trouble) or 2 (wrong usage). */
int demo_main(int argc, char **argv);

#endif
