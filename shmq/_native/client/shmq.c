/* All that a C program needs: compile this file with the program. See shmq.h. */
#include "../engine.c"
#include "client.c"
