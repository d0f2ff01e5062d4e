#define _GNU_SOURCE
#include "port.h"

#include <string.h>
#include <unistd.h>

#include "owner.h"

void shmq_segment_begin(void *base, enum shmq_segment_kind kind, uint64_t segment_bytes, uint32_t ports, uint64_t nonce,
                        const uint8_t boot_id[16], uint64_t creator, uint64_t lock_inode) {
    struct shmq_header *header = base;
    header->version = SHMQ_VERSION;
    header->endian = SHMQ_ENDIAN;
    header->kind = kind;
    header->segment_bytes = segment_bytes;
    header->ports = ports;
    header->nonce = nonce;
    memcpy(header->boot_id, boot_id, sizeof header->boot_id);
    header->creator = creator;
    header->lock_inode = lock_inode;
    header->created_unix_ns = shmq_clock_ns(CLOCK_REALTIME);
}

void shmq_segment_ready(void *base) {
    shmq_store_release(&((struct shmq_header *)base)->magic, SHMQ_MAGIC); /* [ready] */
}

shmq_status shmq_segment_look(const void *base, uint64_t file_bytes, enum shmq_segment_kind kind) {
    const struct shmq_header *header = base;
    if (file_bytes < sizeof *header) return file_bytes == 0 ? SHMQ_WOULD_BLOCK : SHMQ_MISMATCH;
    uint64_t magic = shmq_load_acquire(&header->magic); /* [ready] */
    if (magic == 0) return SHMQ_WOULD_BLOCK;
    if (magic != SHMQ_MAGIC || header->version != SHMQ_VERSION || header->endian != SHMQ_ENDIAN) return SHMQ_MISMATCH;
    return header->kind == kind ? SHMQ_OK : SHMQ_UNKNOWN_KIND;
}

void shmq_port_point(struct shmq_port *port, void *base, uint32_t ports, const struct shmq_behaviour *behaviour) {
    memset(port, 0, sizeof *port);
    port->base = base;
    port->header = base;
    port->ports = ports;
    port->behaviour = behaviour;
    port->records = (struct shmq_port_record *)(port->base + sizeof(struct shmq_header));
    port->nonce = port->header->nonce;
    port->index = SHMQ_NO_PORT;
}

void shmq_port_draw_serial(struct shmq_port *port) {
    port->serial = shmq_add_relaxed(&port->header->attachments, 1);
    port->next_id = port->serial << SHMQ_ID_BITS | 1; /* 0 is no id */
    shmq_store_relaxed(&port->record->serial_before, shmq_load_relaxed(&port->record->serial));
    shmq_store_release(&port->record->serial, port->serial); /* [serial] */
}

static void raise_ports_used(struct shmq_header *header, uint32_t used) {
    uint32_t before = shmq_load_relaxed(&header->ports_used);
    while (before < used && !shmq_swap_seq(&header->ports_used, &before, used)) {} /* [used]: each try that fails met a higher one */
}

shmq_status shmq_port_claim(struct shmq_port *port, uint64_t owner) {
    port->owner = owner;
    for (uint32_t i = 0; i < port->ports; i++) {
        uint64_t free = 0;
        if (shmq_load_relaxed(&port->records[i].owner) != 0) continue;
        raise_ports_used(port->header, i + 1); /* before: a reaper must find a process that is killed behind the next line */
        if (!shmq_swap_seq(&port->records[i].owner, &free, owner)) continue; /* [port] */
        SHMQ_CRASH_POINT(port_claimed);
        port->index = i;
        port->record = &port->records[i];
        shmq_store_relaxed(&port->record->pid, (uint64_t)getpid());
        shmq_store_relaxed(&port->record->pid_namespace, shmq_owner_namespace());
        shmq_port_draw_serial(port);
        shmq_store_relaxed(&port->record->serial_before, port->serial); /* not one of the port's last owner */
        return SHMQ_OK;
    }
    return SHMQ_NO_PORTS;
}
