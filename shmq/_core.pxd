# What the binding sees of the engine. Each declaration mirrors a header of shmq/_native.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "<stdbool.h>" nogil:
    ctypedef bint c_bool "_Bool"

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_close(sem_t *semaphore)

cdef extern from "format/queue.h" nogil:
    ctypedef enum shmq_segment_kind "enum shmq_segment_kind":
        SHMQ_KIND_QUEUE
    ctypedef uint64_t shmq_word
    ctypedef uint32_t shmq_half
    enum: SHMQ_NO_CELL, SHMQ_NO_PORT, SHMQ_MAX_SLOTS, SHMQ_MAX_CELLS, SHMQ_ID_BITS, SHMQ_MAX_PORTS, SHMQ_PAGE, SHMQ_RESERVED_WHERE_PAGED, SHMQ_VERSION, SHMQ_ENDIAN
    const uint64_t SHMQ_MAGIC
    enum: SHMQ_SHUT_FOR_PUTS
    ctypedef enum cell_state "enum shmq_cell_state":
        SHMQ_SPARE, SHMQ_WARM, SHMQ_IDLE, SHMQ_LOANED, SHMQ_LEASED, SHMQ_HELD, SHMQ_ORPHAN, SHMQ_TIMED
    enum: SHMQ_EXPIRIES, SHMQ_DEATHS, SHMQ_DEAD_LETTERED, SHMQ_EVENTS
    enum: SHMQ_PUTS, SHMQ_GETS, SHMQ_RECEIVES, SHMQ_ACKS, SHMQ_NACKS, SHMQ_REDELIVERIES, SHMQ_COUNTERS
    enum: SHMQ_BYTES, SHMQ_ARRAY, SHMQ_TEXT, SHMQ_BYTEARRAY, SHMQ_PICKLE, SHMQ_ENCODED, SHMQ_KINDS
    enum: SHMQ_FORTRAN, SHMQ_SWAPPED, SHMQ_DESCRIBED, SHMQ_SPILLED
    enum: SHMQ_SPILLS, SHMQ_PICKLES, SHMQ_WITH_CREATOR, SHMQ_WITH_HANDLES, SHMQ_ANONYMOUS, SHMQ_GROWS
    enum: SHMQ_INLINE_DIMS
    struct shmq_cell:
        shmq_word word
        shmq_word leased_ns
        shmq_word expires
        shmq_word due_ns
    struct shmq_port_record:
        shmq_word owner
        shmq_word pid
        shmq_word namespace "pid_namespace"
        shmq_word serial
        shmq_word serial_before
        shmq_word intent
        shmq_word counters[6]
    struct shmq_slot:
        uint64_t id
        uint64_t published_ns
        uint64_t nbytes
        shmq_word deliveries
        uint8_t kind
        uint8_t flags
        uint8_t ndim
        uint8_t dtype
        uint32_t itemsize
        uint32_t shape[4]
        uint32_t described
        uint32_t first_failed_ms
    struct shmq_policy:
        uint64_t lease_timeout_ns
        uint64_t retry_initial_ns
        uint64_t retry_maximum_ns
        double retry_factor
        double retry_jitter
        uint64_t max_deliveries
    struct shmq_header:
        shmq_word magic
        uint32_t version
        uint32_t endian
        uint64_t segment_bytes
        uint64_t nonce
        uint32_t ports
        uint32_t flags
        uint64_t creator
        uint64_t creator_pid
        uint64_t created_unix_ns
        uint64_t lock_inode
        uint8_t boot_id[16]
        uint32_t kind
        shmq_word attachments
    struct shmq_queue_header:
        uint64_t slot_size
        uint32_t slots
        uint32_t cells
        char codec[32]
        shmq_policy policy
        shmq_word write_seq
        shmq_word read_seq
        shmq_word orphan_changes
        shmq_half shut
        shmq_word backlog
        shmq_word done
        shmq_half spilled
        shmq_word sides_reaped
        shmq_word events[3]
    struct shmq_geometry:
        uint64_t slot_size
        uint32_t slots
        uint32_t cells
        uint32_t ports
        uint32_t total_slots
        uint32_t reserved
        bint paged
        uint64_t ports_offset
        uint64_t slot_offset
        uint64_t payload_offset
        uint64_t payload_room
        uint64_t segment_bytes
    bint compute_geometry "shmq_geometry"(uint64_t slots, uint64_t slot_size, uint64_t cells, uint64_t ports, shmq_geometry *out)
    uint32_t shmq_word_slot(uint64_t word)
    unsigned shmq_cell_state(uint64_t word)
    uint32_t shmq_cell_owner(uint64_t word)
    bint shmq_state_leased(unsigned state)
    uint64_t shmq_expires_ns(uint64_t expires)

cdef extern from "sync.h" nogil:
    uint64_t shmq_now_ns()
    uint64_t shmq_now_coarse_ns()
    uint64_t shmq_load_relaxed(const shmq_word *word)
    uint64_t shmq_load_acquire(const shmq_word *word)
    uint64_t shmq_load_seq(const shmq_word *word)
    void shmq_store_seq(shmq_word *word, uint64_t value)
    uint64_t shmq_add_relaxed(shmq_word *word, uint64_t n)
    uint32_t shmq_load_half "shmq_load_seq"(const shmq_half *half)
    void shmq_store_half "shmq_store_seq"(shmq_half *half, uint32_t value)
    bint shmq_swap_seq(shmq_word *word, uint64_t *expected, uint64_t desired)
    void shmq_store_release(shmq_word *word, uint64_t value)
    void shmq_store_relaxed(shmq_word *word, uint64_t value)
    void shmq_count(shmq_word *word, uint64_t n)
    bint shmq_likely(bint condition)
    bint shmq_unlikely(bint condition)

cdef extern from "port.h" nogil:
    ctypedef enum shmq_status:
        SHMQ_OK, SHMQ_WOULD_BLOCK, SHMQ_NO_CELLS, SHMQ_TIMED_OUT, SHMQ_INTERRUPTED, SHMQ_LOST, SHMQ_CORRUPT
        SHMQ_NO_PORTS, SHMQ_TOO_LARGE, SHMQ_NOT_FOUND, SHMQ_MISMATCH, SHMQ_FOREIGN, SHMQ_SYSTEM, SHMQ_EXHAUSTED, SHMQ_SHUT, SHMQ_UNKNOWN_KIND
    const uint64_t SHMQ_FOREVER
    ctypedef enum shmq_side "enum shmq_side":
        SHMQ_ITEMS, SHMQ_SPACE, SHMQ_DONE, SHMQ_SIDES
    struct shmq_port
    struct shmq_behaviour:
        c_bool (*promising)(shmq_port *port, shmq_side side, c_bool stays) noexcept
        c_bool (*worth_waking)(const shmq_port *port, uint64_t now) noexcept
        c_bool (*recover)(shmq_port *port, uint32_t dead) noexcept
    struct shmq_port:
        unsigned char *base
        shmq_header *header
        shmq_port_record *records
        shmq_port_record *record
        uint64_t owner
        uint64_t nonce
        uint32_t index
        uint32_t ports
        const shmq_behaviour *behaviour
        uint64_t next_id
        sem_t *semaphores[2]
        const char *path_prefix
        bint spins
    shmq_status shmq_segment_look(const void *base, uint64_t file_bytes, shmq_segment_kind kind)
    void shmq_segment_begin(void *base, shmq_segment_kind kind, uint64_t segment_bytes, uint32_t ports, uint64_t nonce, const uint8_t *boot_id,
                            uint64_t creator, uint64_t lock_inode)
    void shmq_segment_ready(void *base)
    void shmq_port_point(shmq_port *port, void *base, uint32_t ports, const shmq_behaviour *behaviour)
    shmq_status shmq_port_claim(shmq_port *port, uint64_t owner)
    uint64_t shmq_next_id(shmq_port *port)

cdef extern from "queue/port.h" nogil:
    struct shmq_queue_port:
        shmq_port port
        shmq_queue_header *header
        shmq_cell *cells
        shmq_word *ring
        shmq_geometry geometry
        uint32_t kept
        uint64_t due_ns
        uint64_t expiry_ns
        bint writes_dead_letters
        shmq_policy policy
        bint caught_up

cdef extern from "bell.h" nogil:
    int shmq_bell_make(shmq_port *port)
    bint shmq_bell_is_there(const shmq_port *port, int descriptor)
    bint shmq_bell_arm(shmq_port *port, shmq_side side)
    bint shmq_bell_disarm(shmq_port *port, shmq_side side)

cdef extern from "wake.h" nogil:
    void shmq_wake(shmq_port *port, shmq_side side)
    void shmq_pass_on(shmq_port *port, shmq_side side)
    void shmq_wake_all(shmq_port *port, shmq_side side)
    void shmq_wake_after(shmq_port *port, shmq_side side)
    void shmq_wake_if_done(shmq_port *port)
    void shmq_wake_if_done_after_store(shmq_port *port)
    void shmq_port_free(shmq_port *port)

cdef extern from "reap.h" nogil:
    uint32_t shmq_reap(shmq_port *port)

cdef extern from "watch.h" nogil:
    enum: SHMQ_SLICE_MS

cdef extern from "wait.h" nogil:
    struct shmq_patience:
        bint spun
        bint late
        bint stays
        bint told
        uint32_t slice_ms
        uint64_t begun_ns
    unsigned shmq_wait_cpus()
    shmq_status shmq_wait_park(shmq_port *port, shmq_side side, uint64_t deadline_ns, uint64_t due_ns, shmq_patience *patience)

cdef extern from "watch.h" nogil:
    bint shmq_claim_look(shmq_port *port, uint64_t now)

cdef extern from "queue/slots.h" nogil:
    uint64_t shmq_cell_load(const shmq_queue_port *queue, uint32_t cell)
    void shmq_cell_become(shmq_queue_port *queue, uint32_t cell, int state)
    shmq_slot *shmq_slot_at(const shmq_queue_port *queue, uint32_t slot)
    unsigned char *shmq_payload_at(const shmq_queue_port *queue, uint32_t slot)
    void shmq_slot_stamp(shmq_queue_port *queue, shmq_slot *slot)

cdef extern from "queue/policy.h" nogil:
    ctypedef enum shmq_cause "enum shmq_cause":
        SHMQ_RELEASED, SHMQ_NACKED, SHMQ_EXPIRED, SHMQ_DIED, SHMQ_REJECTED
    bint shmq_message_exhausted(const shmq_queue_port *queue, uint64_t deliveries)
    uint32_t shmq_deliveries_failed(uint64_t word)
    shmq_cause shmq_deliveries_cause(uint64_t word)

cdef extern from "queue/look.h" nogil:
    bint shmq_is_shut(const shmq_queue_port *queue)
    uint64_t shmq_backlog(const shmq_queue_port *queue)
    bint shmq_ring_has_space(shmq_queue_port *queue)
    bint shmq_ring_has_item(shmq_queue_port *queue)
    uint32_t shmq_ring_length(const shmq_queue_port *queue)
    uint32_t shmq_ring_estimate(const shmq_queue_port *queue)
    bint shmq_ring_peek(shmq_queue_port *queue, uint32_t nth, shmq_slot *slot, void *payload, uint64_t limit, c_bool *moved)
    bint shmq_is_over(shmq_queue_port *queue, bint stays)
    bint shmq_nothing_comes(shmq_queue_port *queue, bint stays)
    bint shmq_all_wait(const shmq_queue_port *queue)
    bint shmq_cells_move(const shmq_queue_port *queue, bint for_long)
    uint64_t shmq_unfinished(const shmq_queue_port *queue)
    bint shmq_all_done(shmq_queue_port *queue)
    bint shmq_has_taken(const shmq_queue_port *queue, uint64_t count)

    struct shmq_came_back:
        uint32_t due
        uint32_t resting
        uint32_t exhausted
        uint64_t next_due_ns
    uint64_t shmq_ready(const shmq_queue_port *queue)
    uint32_t shmq_room(shmq_queue_port *queue)
    shmq_came_back look_for_what_came_back "shmq_came_back"(const shmq_queue_port *queue)

cdef extern from "queue/view.h" nogil:
    shmq_status shmq_view_begin(shmq_queue_port *queue, uint32_t cell, uint64_t leased)
    void shmq_view_release(shmq_queue_port *queue, uint32_t cell)

cdef extern from "queue/cell.h" nogil:
    ctypedef enum shmq_purpose "enum shmq_purpose":
        SHMQ_TO_WRITE, SHMQ_TO_GIVE
    shmq_status shmq_cell_take(shmq_queue_port *queue, shmq_purpose purpose, uint32_t *cell)
    shmq_status shmq_cell_take_for_long(shmq_queue_port *queue, shmq_purpose purpose, uint32_t *cell)
    void shmq_cell_return(shmq_queue_port *queue, uint32_t cell, bint warm)
    void shmq_cell_free(shmq_queue_port *queue, uint32_t cell, bint warm)
    uint32_t shmq_batch_limit(const shmq_queue_port *queue)

cdef extern from "queue/lease.h" nogil:
    const uint64_t SHMQ_BY_POLICY
    shmq_status shmq_lease_extend(shmq_queue_port *queue, uint32_t cell, uint64_t *leased, uint64_t deadline_ns)
    void shmq_lease_mark(shmq_queue_port *queue, uint32_t cell, uint64_t leased, bint begun)
    shmq_status shmq_lease_ack(shmq_queue_port *queue, uint32_t cell, uint64_t leased, bint looking)
    shmq_status shmq_lease_take_over(shmq_queue_port *queue, uint32_t cell, uint64_t *leased)
    shmq_status shmq_lease_give_back(shmq_queue_port *queue, uint32_t cell, uint64_t leased, shmq_cause cause, uint64_t delay_ns)
    uint32_t shmq_lease_expire(shmq_queue_port *queue)
    void shmq_delivery_ended(shmq_queue_port *queue, uint32_t cell, uint64_t leased, shmq_cause cause, uint64_t delay_ns)
    bint shmq_lease_begun(const shmq_queue_port *queue, uint32_t cell, uint64_t leased)

cdef extern from "queue/resting.h" nogil:
    enum shmq_wish:
        SHMQ_TO_DEAD_LETTER, SHMQ_TO_DISCARD
    bint shmq_orphan_due(shmq_queue_port *queue)
    bint shmq_orphan_claim(shmq_queue_port *queue, shmq_wish wish, uint32_t *cell)

cdef extern from "queue/snapshot.h" nogil:
    struct shmq_cell_row:
        cell_state state
        uint32_t owner
        uint32_t slot
        uint64_t leased_ns
    struct shmq_occupied_row:
        shmq_cell_row cell
        uint64_t id
        uint64_t ends_ns
        uint64_t nbytes
        uint32_t described
        uint32_t failed
        bint begun
        bint spilled
        char key[16]
    struct shmq_exchange_row:
        uint32_t cell
        uint32_t gives
        uint32_t takes
    shmq_cell_row shmq_cell_row_of "shmq_cell_row"(const shmq_queue_port *queue, uint32_t cell)
    bint shmq_find_occupied(const shmq_queue_port *queue, uint32_t *cell, shmq_occupied_row *found)
    void shmq_ring_rows(const shmq_queue_port *queue, uint32_t *slots, int64_t *half_laps)
    bint shmq_find_exchange(const shmq_queue_port *queue, uint32_t *index, shmq_exchange_row *found)
    bint shmq_find_side(const shmq_queue_port *queue, uint64_t *at, char *key)
    void shmq_counted(const shmq_queue_port *queue, uint64_t *counters)
    uint64_t shmq_waiting(const shmq_queue_port *queue, shmq_side side)

cdef extern from "queue/ring.h" nogil:
    ctypedef c_bool (*shmq_fill)(void *context, shmq_queue_port *queue, uint32_t slot) noexcept nogil
    uint32_t shmq_ring_get_many(shmq_queue_port *queue, const uint32_t *cells, uint32_t count, cell_state leased, shmq_status *status)
    uint32_t shmq_ring_put_many(shmq_queue_port *queue, uint32_t cell, shmq_fill fill, void *context, shmq_status *status)

cdef extern from "queue/deliver.h" nogil:
    shmq_status shmq_offer(shmq_queue_port *queue, uint32_t cell, bint is_new)
    uint32_t shmq_offer_many(shmq_queue_port *queue, uint32_t cell, shmq_fill fill, void *context, shmq_status *status)
    shmq_status shmq_take(shmq_queue_port *queue, bint for_long, uint64_t lease_ns, uint32_t *cell)
    uint32_t shmq_take_many(shmq_queue_port *queue, uint32_t *cells, uint32_t wanted, shmq_status *status)
    shmq_status shmq_verdict(shmq_queue_port *queue, shmq_side side, shmq_status status, bint stays)
    uint64_t shmq_worth(shmq_queue_port *queue, shmq_side side)

cdef extern from "queue/attach.h" nogil:
    void shmq_segment_format(void *base, const shmq_geometry *geometry, uint64_t nonce, uint32_t flags, const char *codec,
                             const uint8_t *boot_id, uint64_t creator, uint64_t lock_inode, const shmq_policy *policy)
    shmq_status shmq_segment_check(const void *base, uint64_t file_bytes, shmq_geometry *out)
    void shmq_port_map(shmq_queue_port *queue, void *base, const shmq_geometry *geometry)
    shmq_status shmq_port_attach(shmq_queue_port *queue, void *base, const shmq_geometry *geometry, uint64_t owner)
    void shmq_port_detach(shmq_queue_port *queue)

cdef extern from "queue/pace.h" nogil:
    void shmq_linger(shmq_queue_port *queue)
    bint shmq_spin(shmq_queue_port *queue, shmq_side side, uint64_t deadline_ns)

cdef extern from "queue/await.h" nogil:
    bint shmq_tend(shmq_queue_port *queue)
    shmq_status shmq_await(shmq_queue_port *queue, shmq_side side, uint64_t deadline_ns, shmq_patience *patience)
    shmq_status shmq_await_cell(shmq_queue_port *queue, uint64_t deadline_ns, shmq_patience *patience)

cdef extern from "files.h" nogil:
    sem_t *shmq_semaphore_open(const char *name)
    c_bool shmq_file_remove_side(const char *path_prefix, const char *key)
    enum: SHMQ_SIDE_KEY_BYTES

cdef extern from "owner.h" nogil:
    uint64_t shmq_owner_self()
    uint64_t shmq_owner_forks
    bint shmq_owner_alive(uint64_t identity)
    uint64_t shmq_owner_namespace()
    uint64_t shmq_owner_lock_inode()
    bint shmq_owner_is_this_user()
    bint shmq_owner_lock(uint64_t key)
    void shmq_owner_unlock(uint64_t key)
    int64_t shmq_owner_holder(uint64_t key)
    bint shmq_owner_random(void *out, unsigned nbytes)
