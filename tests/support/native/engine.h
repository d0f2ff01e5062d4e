/* Everything that the engine declares. */
#ifndef SHMQ_TEST_ENGINE_H
#define SHMQ_TEST_ENGINE_H

#include "bell.h"
#include "owner.h"
#include "queue/attach.h"
#include "queue/await.h"
#include "queue/cell.h"
#include "queue/deliver.h"
#include "queue/lease.h"
#include "queue/look.h"
#include "queue/pace.h"
#include "queue/resting.h"
#include "queue/ring.h"
#include "queue/view.h"
#include "reap.h"
#include "wake.h"

#endif
