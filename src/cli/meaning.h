/* meaning: what the measured figures say, in words. */
#ifndef CLI_MEANING_H
#define CLI_MEANING_H

#include "cell.h"

/* Prints a paragraph for each round trip and form. Every number and verdict comes from the cells. */
void meaning_print(const cell *cells, int n);

/* The same in a line for each form, to be read first; and whether the machine was too busy for one. */
void meaning_verdict(const cell *cells, int n);

#endif
