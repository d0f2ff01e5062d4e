/* Two ports meet: one acts in the middle of a call of the other, before each access to shared memory that this call makes, one
 * after the other. So each order of a short call inside a longer one is tried, in one thread.
 *
 *     meetings NAME
 *
 * Prints how many meetings there were. */
#include "call.h"
#include "child.h"

static void (*other_act)(void);

static void act_once(void) {
    shmq_accesses_until = UINT64_MAX;
    other_act();
}

/* `act`, with `other` before its nth access, or after it where it has fewer. False: it has fewer. */
static bool meet(uint64_t nth, void (*act)(void), void (*other)(void)) {
    other_act = other;
    shmq_access_met = act_once;
    shmq_accesses = 0;
    shmq_accesses_until = nth;
    act();
    bool met = shmq_accesses_until == UINT64_MAX;
    shmq_accesses_until = UINT64_MAX;
    if (!met) other();
    return met;
}

static struct segment segment;
static struct shmq_queue_port viewer, holder;
static uint32_t cell;

/* The viewer has lost its lease, and looks on; the holder has adopted the message. */
static void begin_to_look(void) {
    segment_format(&segment);
    must_attach(&viewer, &segment);
    must_attach(&holder, &segment);
    CHECK_EQUAL(try_put(&holder, 0, 0), SHMQ_OK);
    CHECK_EQUAL(shmq_cell_take_for_long(&viewer, SHMQ_TO_GIVE, &cell), SHMQ_OK);
    shmq_lease_time(&viewer, cell, 1000); /* over long ago */
    CHECK_EQUAL(shmq_ring_get(&viewer, cell, SHMQ_TIMED), SHMQ_OK);
    CHECK_EQUAL(shmq_view_begin(&viewer, cell, shmq_cell_load(&viewer, cell)), SHMQ_OK);
    CHECK_EQUAL(shmq_lease_expire(&holder), 1);
    uint32_t adopted;
    CHECK_EQUAL(shmq_orphan_adopt(&holder, 0, &adopted), SHMQ_OK);
    CHECK_EQUAL(adopted, cell);
}

static void viewer_detaches(void) { shmq_port_detach(&viewer); }
static void viewer_looks_away(void) { shmq_view_release(&viewer, cell); }
static void viewer_is_reaped(void) {
    viewer.port.record->owner ^= 1; /* nobody has this identity */
    CHECK_EQUAL(shmq_reap(&holder.port), 1);
}
static void holder_is_done(void) { ack(&holder, cell); }
static void holder_detaches(void) { shmq_port_detach(&holder); }
static void holder_gives_back(void) { give_back(&holder, cell, SHMQ_RELEASED, 0); }

struct meeting {
    const char *name;
    void (*go)(void), (*finish)(void); /* of the viewer, of the holder */
    unsigned left;                     /* state of the cell afterwards; WARM: SPARE as well */
};
static const struct meeting meetings[] = {
    {"a_viewer_detaches_while_the_message_is_acked", viewer_detaches, holder_is_done, SHMQ_WARM},
    {"a_viewer_looks_away_while_the_message_is_acked", viewer_looks_away, holder_is_done, SHMQ_WARM},
    {"a_dead_viewer_is_reaped_while_the_message_is_acked", viewer_is_reaped, holder_is_done, SHMQ_WARM},
    {"a_viewer_detaches_while_the_holder_does", viewer_detaches, holder_detaches, SHMQ_ORPHAN},
    {"a_viewer_detaches_while_the_message_is_given_back", viewer_detaches, holder_gives_back, SHMQ_ORPHAN},
};

/* The queue was shut, and its only message is another process's, whose lease is over. */
static struct shmq_queue_port looker;
static bool ended;

static void shut_with_one_held(void) {
    segment_format(&segment);
    must_attach(&looker, &segment);
    must_attach(&holder, &segment);
    CHECK_EQUAL(try_put(&holder, 0, 0), SHMQ_OK);
    CHECK_EQUAL(shmq_cell_take_for_long(&holder, SHMQ_TO_GIVE, &cell), SHMQ_OK);
    shmq_lease_time(&holder, cell, 1000); /* over long ago */
    CHECK_EQUAL(shmq_ring_get(&holder, cell, SHMQ_TIMED), SHMQ_OK);
    holder.port.record->owner ^= 1; /* of another process */
    shmq_store_seq(&looker.header->shut, SHMQ_SHUT_FOR_PUTS);
    ended = false;
}
static void loop_looks(void) { ended |= shmq_is_over(&looker, true); }
static void another_thread_expires_it(void) {
    struct shmq_queue_port thread;
    must_attach(&thread, &segment);
    CHECK_EQUAL(shmq_lease_expire(&thread), 1);
}
/* And the port is this process's afterwards. */
static void its_holder_goes_and_another_comes(void) {
    struct shmq_queue_port thread;
    uint32_t index = holder.port.index;
    shmq_port_detach(&holder);
    must_attach(&thread, &segment);
    CHECK_EQUAL(thread.port.index, index);
}

static void process_forks(void) { /* the child has nobody who is in the middle of it */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(shmq_owner_begun == shmq_owner_ended ? 0 : 1);
    CHECK(ended_well(wait_for_child(child)));
}

struct ending { const char *name; void (*act)(void), (*other)(void); };
static const struct ending endings[] = {
    {"a_loop_looks_while_a_thread_of_its_process_expires_the_lease", another_thread_expires_it, loop_looks},
    {"a_thread_expires_the_lease_while_a_loop_of_its_process_looks", loop_looks, another_thread_expires_it},
    {"the_holder_s_port_becomes_this_process_s_while_a_loop_looks", loop_looks, its_holder_goes_and_another_comes},
    {"a_loop_looks_while_the_holder_s_port_becomes_this_process_s", its_holder_goes_and_another_comes, loop_looks},
    {"a_child_is_forked_while_a_thread_expires_the_lease", another_thread_expires_it, process_forks},
};

static uint64_t try_all_of(const struct ending *ending) {
    uint64_t nth = 1;
    for (bool met = true; met; nth++) {
        shut_with_one_held();
        met = meet(nth, ending->act, ending->other);
        CHECK(!ended, "at access %llu: the loop has ended, and the message comes back", (unsigned long long)nth);
        CHECK_EQUAL(shmq_cell_state(shmq_load_seq(&looker.cells[cell].word)), SHMQ_ORPHAN);
    }
    return nth;
}

static uint64_t try_all(const struct meeting *meeting) {
    uint64_t count = 0;
    for (int holder_first = 0; holder_first < 2; holder_first++) {
        bool met = true;
        for (uint64_t nth = 1; met; nth++, count++) {
            begin_to_look();
            met = holder_first ? meet(nth, meeting->finish, meeting->go) : meet(nth, meeting->go, meeting->finish);
            uint64_t word = shmq_load_seq(&holder.cells[cell].word);
            unsigned state = shmq_cell_state(word);
            CHECK(state == meeting->left || (state == SHMQ_SPARE && meeting->left == SHMQ_WARM), "%s at access %llu: cell %u, state %u, port %u",
                  holder_first ? "viewer" : "holder", (unsigned long long)nth, cell, state, shmq_cell_owner(word));
            CHECK_EQUAL(shmq_cell_owner(word), SHMQ_NO_PORT);
        }
    }
    return count;
}

int main(int argc, char **argv) {
    watchdog(WATCHDOG_SECONDS);
    CHECK(argc == 2 && shmq_owner_self() != 0);
    snprintf(context, sizeof context, "%s", argv[1]);
    for (size_t i = 0; i < sizeof meetings / sizeof *meetings; i++) {
        if (strcmp(meetings[i].name, argv[1]) != 0) continue;
        uint64_t count = 0;
        for (int paged = 0; paged < 2; paged++) {
            segment_make(&segment, 3, paged ? SHMQ_PAGE : 64, 3, 3);
            count += try_all(&meetings[i]);
            segment_unmake(&segment);
        }
        printf("%llu\n", (unsigned long long)count);
        return 0;
    }
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        if (strcmp(endings[i].name, argv[1]) != 0) continue;
        segment_make(&segment, 3, 64, 3, 3);
        printf("%llu\n", (unsigned long long)try_all_of(&endings[i]));
        segment_unmake(&segment);
        return 0;
    }
    fprintf(stderr, "there is no meeting %s\n", argv[1]);
    return 2;
}
