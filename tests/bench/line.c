/* A long, slow line in userspace: TCP connections pass through it, delayed and slowed down.
 *
 *   line [--rtt-ms T] [--mbit R] [--total-mbit R] [--slow-every N] [--slow-factor F] [--lose-every BYTES]
 *        DOOR...                          with DOOR = FD:IP:PORT, a listening socket and where it leads
 *
 * What it models, for every connection:
 *   - the handshake: the first byte goes up one round trip after the connection was made;
 *   - distance: half a round trip each way;
 *   - slow start: ten segments fly at first, and one more for every one acknowledged, up to twice what the line
 *     holds (rate x round trip): the bottleneck queues as much as it carries;
 *   - speed: bytes come down at --mbit, and all connections together at --total-mbit;
 *   - a reader that is slow: what the client's socket does not take is not acknowledged.
 * What it leaves out: loss and congestion, the speed of the way up, slow start after a pause.
 *
 * And its faults: of the connections of a door, every Nth (the 4th, 12th, ... for 8) has F of the speed; each time
 * the line has carried so many bytes down, the connection that carried the last of them is reset.
 *
 * What comes down waits in pipes and is not copied: pages of the server's socket go into them and out of them by
 * splice(2), so that the line takes little of the processor that both its ends run on. All of them together are larger
 * than /proc/sys/fs/pipe-user-pages-soft lets anybody but root have.
 *
 * One thread; one loop that sleeps in ppoll until a socket or the earliest due time wakes it, at most every TICK_S.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SEGMENT = 1460,
    FIRST_WINDOW = 10 * SEGMENT, /* RFC 6928 */
    LEAST_WINDOW = 64 << 10,
    PIECE = 64 << 10, /* most bytes that share a due time; 2.6 ms at 200 Mbit/s */
    UP_ROOM = 256 << 10,
    MOST_DOORS = 16,
    PIPES = 16, /* of a connection; three or four where pages are full */
    PIPE_BYTES = 1 << 20,
};
static const double TICK_S = 0.0005; /* due times this close are served together, or waking up would eat a core */
static const double NEVER = 1e18;

static double rtt_s = 0, rate = 1e12, total_rate = 0, slow_factor = 1, lose_every = 0;
static long slow_every = 0;

static double total_free_at = 0; /* when the line as a whole has sent what it took */
static double carried = 0, next_loss = 0;

/* --- bytes on their way: a ring or pipes of bytes,  and a queue of how many of them are due when -------------- */

struct piece {
    double due;
    size_t bytes;
};

struct queue {
    struct piece *at;
    size_t head, count, room;
};

static void *need(void *memory) {
    if (!memory) {
        fputs("line: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static void put(struct queue *q, double due, size_t bytes) {
    if (q->count == q->room) {
        size_t room = q->room ? 2 * q->room : 64;
        struct piece *at = need(malloc(room * sizeof *at));
        for (size_t i = 0; i < q->count; i++) at[i] = q->at[(q->head + i) % q->room];
        free(q->at);
        q->at = at, q->head = 0, q->room = room;
    }
    q->at[(q->head + q->count++) % q->room] = (struct piece){due, bytes};
}

static struct piece *first(struct queue *q) { return q->count ? &q->at[q->head] : NULL; }

static void drop(struct queue *q) {
    q->head = (q->head + 1) % q->room;
    q->count--;
}

struct ring {
    char *at;
    size_t head, count, room;
};

enum came { SOME, NOTHING, END };

/* Read up to `most` bytes into the ring; `*got` of them came. */
static enum came take_in(int fd, struct ring *r, size_t most, size_t *got) {
    size_t tail = (r->head + r->count) % r->room;
    size_t space = r->room - r->count, straight = r->room - tail;
    if (most > space) most = space;
    if (most > straight) most = straight;
    ssize_t n = recv(fd, r->at + tail, most, 0);
    if (n > 0) {
        r->count += (size_t)n;
        *got = (size_t)n;
        return SOME;
    }
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? NOTHING : END;
}

/* Send up to `most` bytes of the ring; returns how many went, -1 where the peer is gone. */
static ssize_t give_out(int fd, struct ring *r, size_t most) {
    size_t straight = r->room - r->head;
    ssize_t n = send(fd, r->at + r->head, most < straight ? most : straight, MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
    r->head = (r->head + (size_t)n) % r->room;
    r->count -= (size_t)n;
    return n;
}

struct pipe {
    int in, out;
    size_t count;
};

/* The first is emptied while the last is filled; those behind the last are empty, or not laid yet. */
struct pipes {
    struct pipe at[PIPES];
    size_t laid, first, last, count, room;
};

static void lay_pipe(struct pipes *all) {
    int ends[2];
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) || fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES) < 0) {
        perror("line: a pipe for what is on its way");
        exit(1);
    }
    all->at[all->laid++] = (struct pipe){ends[1], ends[0], 0};
}

/* Splice up to `most` bytes into the pipes; `*got` of them came. */
static enum came pipe_in(int fd, struct pipes *all, size_t most, size_t *got) {
    for (;;) {
        struct pipe *p = &all->at[all->last];
        ssize_t n = splice(fd, NULL, p->in, NULL, most, SPLICE_F_NONBLOCK);
        if (n > 0) {
            p->count += (size_t)n, all->count += (size_t)n;
            *got = (size_t)n;
            return SOME;
        }
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) return END;
        /* Nothing came, or the pipe is full: it counts pages, and not all of them are. */
        int waiting = 0;
        size_t next = (all->last + 1) % PIPES;
        if (ioctl(fd, FIONREAD, &waiting) || !waiting || !p->count || next == all->first) return NOTHING;
        if (next == all->laid) lay_pipe(all);
        all->last = next;
    }
}

/* Splice up to `most` bytes of the first pipe out; returns how many went, -1 where the peer is gone. */
static ssize_t pipe_out(int fd, struct pipes *all, size_t most) {
    struct pipe *p = &all->at[all->first];
    ssize_t n = splice(p->out, NULL, fd, NULL, most < p->count ? most : p->count, SPLICE_F_NONBLOCK);
    if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
    p->count -= (size_t)n, all->count -= (size_t)n;
    if (!p->count && all->first != all->last) all->first = (all->first + 1) % PIPES;
    return n;
}

/* --- one connection ----------------------------------------------------------------------------------------- */

struct connection {
    int client, server;
    double born, rate, free_at; /* free_at: when its own line has sent what it took */
    double window, most_window, flying;
    struct ring up;
    struct pipes down;
    struct queue up_due, down_due, acks;
    bool server_ended, client_ended, client_full, server_full, dead, reset;
    struct connection *next;
};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void go_up(struct connection *c, double now) {
    size_t got;
    while (!c->client_ended && c->up.count < c->up.room) {
        enum came came = take_in(c->client, &c->up, PIECE, &got);
        if (came == NOTHING) break;
        if (came == END) {
            c->client_ended = true;
            break;
        }
        double leaves = now > c->born + rtt_s ? now : c->born + rtt_s;
        put(&c->up_due, leaves + rtt_s / 2, got);
    }
    c->server_full = false;
    for (struct piece *p; (p = first(&c->up_due)) && p->due <= now;) {
        ssize_t n = give_out(c->server, &c->up, p->bytes);
        if (n < 0) {
            c->dead = true;
            return;
        }
        if (!(p->bytes -= (size_t)n)) drop(&c->up_due);
        else if (n == 0) {
            c->server_full = true;
            break;
        }
    }
    if (c->client_ended && !c->up_due.count) c->dead = true;
}

static bool may_fly(const struct connection *c) {
    return !c->server_ended && c->window - c->flying >= SEGMENT && c->down.room - c->down.count >= SEGMENT;
}

static void take_acks(struct connection *c, double now) {
    for (struct piece *p; (p = first(&c->acks)) && p->due <= now; drop(&c->acks)) {
        c->flying -= (double)p->bytes;
        if (c->window < c->most_window) c->window += (double)p->bytes;
    }
}

static void take_off(struct connection *c, double now) {
    size_t got;
    while (may_fly(c)) {
        double most = c->window - c->flying;
        enum came came = pipe_in(c->server, &c->down, most < PIECE ? (size_t)most : PIECE, &got);
        if (came == NOTHING) return;
        if (came == END) {
            c->server_ended = true;
            return;
        }
        c->free_at = (now > c->free_at ? now : c->free_at) + (double)got / c->rate;
        double leaves = c->free_at;
        if (total_rate > 0) {
            total_free_at = (now > total_free_at ? now : total_free_at) + (double)got / total_rate;
            if (total_free_at > leaves) leaves = total_free_at;
        }
        put(&c->down_due, leaves + rtt_s / 2, got);
        c->flying += (double)got;
    }
}

static void land(struct connection *c, double now) {
    c->client_full = false;
    for (struct piece *p; (p = first(&c->down_due)) && p->due <= now;) {
        ssize_t n = pipe_out(c->client, &c->down, p->bytes);
        if (n < 0) {
            c->dead = true;
            return;
        }
        if (n > 0) put(&c->acks, now + rtt_s / 2, (size_t)n);
        carried += (double)n;
        if (lose_every > 0 && carried >= next_loss) {
            next_loss += lose_every;
            c->dead = c->reset = true;
            return;
        }
        if (!(p->bytes -= (size_t)n)) drop(&c->down_due);
        else if (n == 0) {
            c->client_full = true;
            break;
        }
    }
    if (c->server_ended && !c->down_due.count) c->dead = true;
}

static void pump(struct connection *c, double now) {
    go_up(c, now);
    if (c->dead) return;
    take_acks(c, now);
    take_off(c, now);
    land(c, now);
}

static double due(struct connection *c) {
    double at = NEVER;
    struct piece *p;
    if (!c->server_full && (p = first(&c->up_due)) && p->due < at) at = p->due;
    if (!c->client_full && (p = first(&c->down_due)) && p->due < at) at = p->due;
    if ((p = first(&c->acks)) && p->due < at) at = p->due;
    return at;
}

/* A socket is watched only while it could be used: poll reports the end of any other again and again. */
static struct pollfd watch(int fd, bool in, bool out) {
    return (struct pollfd){in || out ? fd : -1, (short)((in ? POLLIN : 0) | (out ? POLLOUT : 0)), 0};
}

static void end(struct connection *c) {
    if (c->reset) {
        struct linger none = {1, 0};
        setsockopt(c->client, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    }
    close(c->client);
    close(c->server);
    for (size_t i = 0; i < c->down.laid; i++) close(c->down.at[i].in), close(c->down.at[i].out);
    free(c->up.at), free(c->up_due.at), free(c->down_due.at), free(c->acks.at);
    free(c);
}

/* --- doors --------------------------------------------------------------------------------------------------- */

struct door {
    int listener;
    struct sockaddr_in to;
    long count;
};

static bool parse_door(const char *text, struct door *d) {
    char ip[64];
    unsigned short port;
    *d = (struct door){.to.sin_family = AF_INET};
    if (sscanf(text, "%d:%63[0-9.]:%hu", &d->listener, ip, &port) != 3) return false;
    d->to.sin_port = htons(port);
    return inet_pton(AF_INET, ip, &d->to.sin_addr) == 1 && fcntl(d->listener, F_SETFL, O_NONBLOCK) == 0;
}

static int reach(const struct door *d) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    /* A large buffer here would let the server believe that it is done long before the client has its bytes. */
    int small = 256 << 10;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (connect(fd, (const struct sockaddr *)&d->to, sizeof d->to)) {
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static struct connection *admit(struct door *d, double now) {
    int on = 1, client = accept4(d->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0) return NULL;
    int server = reach(d);
    if (server < 0) {
        close(client);
        return NULL;
    }
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct connection *c = need(calloc(1, sizeof *c));
    d->count++;
    bool slow = slow_every && d->count % slow_every == slow_every / 2;
    c->client = client, c->server = server, c->born = now;
    c->rate = rate * (slow ? slow_factor : 1);
    c->window = FIRST_WINDOW, c->most_window = 2 * c->rate * rtt_s;
    if (c->most_window < LEAST_WINDOW) c->most_window = LEAST_WINDOW;
    c->up.room = UP_ROOM, c->up.at = need(malloc(UP_ROOM));
    c->down.room = (size_t)c->most_window + PIECE;
    lay_pipe(&c->down);
    return c;
}

static void serve(struct door *doors, size_t count) {
    struct connection *all = NULL;
    struct pollfd *watched = NULL;
    double woke = 0;
    for (;;) {
        size_t open = 0, n = 0;
        for (struct connection *c = all; c; c = c->next) open++;
        watched = need(realloc(watched, (count + 2 * open) * sizeof *watched));
        for (size_t i = 0; i < count; i++) watched[n++] = watch(doors[i].listener, true, false);
        double wake = NEVER;
        for (struct connection *c = all; c; c = c->next) {
            watched[n++] = watch(c->client, !c->client_ended && c->up.count < c->up.room, c->client_full);
            watched[n++] = watch(c->server, may_fly(c), c->server_full);
            double at = due(c);
            if (at < wake) wake = at;
        }
        double now = now_s(), earliest = woke + TICK_S, wait = wake - now;
        if (now < earliest) {
            double pause = earliest - now;
            nanosleep(&(struct timespec){0, (long)(pause * 1e9)}, NULL);
            wait = wake - now_s();
        }
        if (wait < 0) wait = 0;
        struct timespec t = {(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)};
        if (ppoll(watched, (nfds_t)n, wake == NEVER ? NULL : &t, NULL) < 0 && errno != EINTR) {
            perror("line: ppoll");
            exit(1);
        }
        now = woke = now_s();
        for (size_t i = 0; i < count; i++)
            for (struct connection *c; (c = admit(&doors[i], now));) c->next = all, all = c;
        for (struct connection **at = &all, *c; (c = *at);) {
            pump(c, now);
            if (c->dead) *at = c->next, end(c);
            else at = &c->next;
        }
    }
}

int main(int argc, char **argv) {
    static const struct option names[] = {
        {"rtt-ms", required_argument, NULL, 'd'},      {"mbit", required_argument, NULL, 'r'},
        {"total-mbit", required_argument, NULL, 't'},  {"slow-every", required_argument, NULL, 'n'},
        {"slow-factor", required_argument, NULL, 'f'}, {"lose-every", required_argument, NULL, 'l'},
        {NULL, 0, NULL, 0},
    };
    for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (o) {
        case 'd': rtt_s = atof(optarg) / 1e3; break;
        case 'r': rate = atof(optarg) * 1e6 / 8; break;
        case 't': total_rate = atof(optarg) * 1e6 / 8; break;
        case 'n': slow_every = atol(optarg); break;
        case 'f': slow_factor = atof(optarg); break;
        case 'l': next_loss = lose_every = atof(optarg); break;
        default: return 2;
        }
    }
    struct door doors[MOST_DOORS];
    size_t count = 0;
    for (; optind < argc && count < MOST_DOORS; optind++)
        if (!parse_door(argv[optind], &doors[count++])) {
            fprintf(stderr, "line: `%s` is no door, FD:IP:PORT\n", argv[optind]);
            return 2;
        }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    serve(doors, count);
}
