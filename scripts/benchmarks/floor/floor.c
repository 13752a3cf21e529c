/* The floor: the least that a server must do for the benchmark's gets, to see how far ours is above it.
 *
 * One thread, epoll, mutual TLS 1.3 (OpenSSL), WebSocket frames, the mwDB protocol's get, put and prefix; values in a table in memory, or
 * in RocksDB with the options that our server gives it. What one read brings is answered in whole TLS records and one write. It refuses
 * whatever the benchmark does not send, has no limits, timeouts, policy or durability, and is for nothing but measuring.
 *
 * usage: floor CERTIFICATE KEY TRUST [ROCKSDB-DIRECTORY]      prints "listening on wss://127.0.0.1:PORT"
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <rocksdb/c.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 64 << 10, MAXIMUM_MESSAGE = 64 << 20, MAXIMUM_KEYS = 4096, MAXIMUM_EVENTS = 256 };
/* As our server opens RocksDB (Sources/MWRocksDB/RocksDBOptions.swift), so that what is compared is what is around it; one in so many
 * reads leaves its block in the cache. */
enum { READS_PER_CACHE_FILL = 32 };
static const char database_options[] =
    "create_if_missing=true;compression=kLZ4Compression;level_compaction_dynamic_level_bytes=true;write_buffer_size=67108864;"
    "max_background_jobs=2;max_open_files=256;memtable_prefix_bloom_size_ratio=0.02;memtable_whole_key_filtering=true;"
    "block_based_table_factory={block_cache=268435456;block_size=4096;index_block_restart_interval=8;format_version=5;"
    "cache_index_and_filter_blocks=true;cache_index_and_filter_blocks_with_high_priority=true;filter_policy=bloomfilter:10:false;"
    "metadata_cache_options={unpartitioned_pinning=kAll}}";

static void fail(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, errno ? strerror(errno) : "failed");
    ERR_print_errors_fp(stderr);
    exit(70);
}

/* ---- Buffers ---- */

struct buffer {
    uint8_t *bytes;
    size_t count, capacity;
};

static uint8_t *reserve(struct buffer *buffer, size_t more) {
    if (buffer->capacity - buffer->count < more) {
        size_t capacity = buffer->capacity ? buffer->capacity : 4096;
        while (capacity - buffer->count < more) capacity *= 2;
        buffer->bytes = realloc(buffer->bytes, capacity);
        if (!buffer->bytes) fail("memory");
        buffer->capacity = capacity;
    }
    return buffer->bytes + buffer->count;
}

static void append(struct buffer *buffer, const void *bytes, size_t count) {
    memcpy(reserve(buffer, count), bytes, count);
    buffer->count += count;
}

static void drop(struct buffer *buffer) {
    free(buffer->bytes);
    *buffer = (struct buffer){0};
}

/* ---- The store: a table with open addressing, or RocksDB ---- */

struct slice {
    const char *bytes;
    size_t count;
    rocksdb_pinnableslice_t *pinned;
};

struct entry {
    char *key, *value;
    size_t key_count, value_count;
};

static struct entry *table;
static size_t table_capacity, table_count;
static rocksdb_t *database;
static rocksdb_readoptions_t *read_options[2];
static rocksdb_writeoptions_t *write_options;

static void check(char *error) {
    if (!error) return;
    fprintf(stderr, "floor: RocksDB: %s\n", error);
    exit(70);
}

static uint64_t hash(const char *bytes, size_t count) {
    uint64_t value = 0xcbf29ce484222325;
    for (size_t i = 0; i < count; i++) value = (value ^ (uint8_t)bytes[i]) * 0x100000001b3;
    return value ^ value >> 29;
}

/* The entry of a key, or the empty one where it would be. */
static struct entry *find(const char *key, size_t count) {
    size_t index = hash(key, count) & (table_capacity - 1);
    while (table[index].key && (table[index].key_count != count || memcmp(table[index].key, key, count)))
        index = (index + 1) & (table_capacity - 1);
    return &table[index];
}

static void grow_table(void) {
    struct entry *old = table;
    size_t old_capacity = table_capacity;
    table_capacity = old_capacity ? old_capacity * 2 : 1 << 16;
    table = calloc(table_capacity, sizeof *table);
    if (!table) fail("memory");
    for (size_t i = 0; i < old_capacity; i++)
        if (old[i].key) *find(old[i].key, old[i].key_count) = old[i];
    free(old);
}

static char *copy(const char *bytes, size_t count) {
    char *result = malloc(count ? count : 1);
    if (!result) fail("memory");
    return memcpy(result, bytes, count);
}

static void store_put(struct slice key, struct slice value) {
    if (database) {
        char *error = NULL;
        rocksdb_put(database, write_options, key.bytes, key.count, value.bytes, value.count, &error);
        return check(error);
    }
    if (table_count * 2 >= table_capacity) grow_table();
    struct entry *entry = find(key.bytes, key.count);
    if (!entry->key) {
        *entry = (struct entry){.key = copy(key.bytes, key.count), .key_count = key.count};
        table_count++;
    }
    free(entry->value);
    entry->value = copy(value.bytes, value.count);
    entry->value_count = value.count;
}

/* A key that is missing has an empty value. */
static struct slice store_get(struct slice key) {
    struct slice value = {0};
    if (database) {
        char *error = NULL;
        static unsigned reads;
        bool fills = ++reads % READS_PER_CACHE_FILL == 0;
        value.pinned = rocksdb_get_pinned(database, read_options[fills], key.bytes, key.count, &error);
        check(error);
        if (value.pinned) value.bytes = rocksdb_pinnableslice_value(value.pinned, &value.count);
    } else if (table) {
        struct entry *entry = find(key.bytes, key.count);
        value.bytes = entry->value;
        value.count = entry->value_count;
    }
    return value;
}

static void open_database(const char *directory) {
    char *error = NULL;
    rocksdb_options_t *base = rocksdb_options_create(), *options = rocksdb_options_create();
    rocksdb_get_options_from_string(base, database_options, options, &error);
    check(error);
    for (int fills = 0; fills < 2; fills++) {
        read_options[fills] = rocksdb_readoptions_create();
        rocksdb_readoptions_set_verify_checksums(read_options[fills], 1);
        rocksdb_readoptions_set_fill_cache(read_options[fills], fills);
    }
    write_options = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(write_options, 1);
    database = rocksdb_open(options, directory, &error);
    check(error);
}

/* ---- Messages ---- */

static void write_head(struct buffer *out, uint8_t opcode, size_t count) {
    uint8_t head[10] = {0x80 | opcode};
    size_t length = 2;
    if (count < 126) {
        head[1] = count;
    } else if (count < 65536) {
        head[1] = 126;
        length = 4;
    } else {
        head[1] = 127;
        length = 10;
    }
    for (size_t i = length, rest = count; i > 2; rest >>= 8) head[--i] = rest;
    append(out, head, length);
}

/* Takes the next element of what `#` separates; false at the end. */
static bool next_element(const char **at, const char *end, struct slice *element) {
    if (*at >= end) return false;
    const char *stop = memchr(*at, '#', end - *at);
    if (!stop) stop = end;
    *element = (struct slice){*at, stop - *at, NULL};
    *at = stop + 1;
    return true;
}

static bool answer_get(const char *at, const char *end, const char *id, size_t id_count, struct buffer *out) {
    static struct slice values[MAXIMUM_KEYS];
    struct slice key;
    size_t count = 0, total = 0;
    while (next_element(&at, end, &key)) {
        if (count == MAXIMUM_KEYS) return false;
        values[count] = store_get(key);
        total += values[count++].count;
    }
    write_head(out, 2, total + (count ? count - 1 : 0) + 2 + id_count);
    for (size_t i = 0; i < count; i++) {
        if (i) append(out, "#", 1);
        if (values[i].count) append(out, values[i].bytes, values[i].count);
        if (values[i].pinned) rocksdb_pinnableslice_destroy(values[i].pinned);
    }
    append(out, "#\x01", 2);
    append(out, id, id_count);
    return true;
}

static bool answer(const char *message, size_t count, struct buffer *out) {
    if (count && message[0] == 6) {
        write_head(out, 2, 3 + count - 1);
        append(out, "A#\x07", 3);
        append(out, message + 1, count - 1);
        return true;
    }
    const char *mark = memrchr(message, '#', count);
    if (!mark || mark + 2 > message + count) return false;
    const char *id = mark + 2, *at = message;
    size_t id_count = message + count - id;
    struct slice key, value;
    switch (mark[1]) {
    case 0: return answer_get(message, mark, id, id_count, out);
    case 2:
        while (next_element(&at, mark, &key)) {
            if (!next_element(&at, mark, &value)) value = (struct slice){"", 0, NULL};
            store_put(key, value);
        }
        write_head(out, 2, 3 + id_count);
        append(out, "\x01#\x03", 3);
        append(out, id, id_count);
        return true;
    default: return false;
    }
}

/* ---- Connections ---- */

struct connection {
    int descriptor;
    bool is_secure, is_upgraded, is_blocked;
    SSL *ssl;
    /* Bytes of a message that is not whole yet; TLS records that the socket did not take, and how many of their bytes it took since. */
    struct buffer in, unsent;
    size_t sent;
};

static int poller;
/* What is read, answered and encrypted in one turn; a connection keeps only what is left of it. */
static struct buffer incoming, outgoing, records;

static int collect_write(BIO *bio, const char *bytes, int count) {
    (void)bio;
    append(&records, bytes, count);
    return count;
}

static long collect_control(BIO *bio, int command, long number, void *pointer) {
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static void await(struct connection *connection, bool writable) {
    struct epoll_event event = {.events = writable ? EPOLLOUT : EPOLLIN, .data.ptr = connection};
    epoll_ctl(poller, EPOLL_CTL_MOD, connection->descriptor, &event);
    connection->is_blocked = writable;
}

/* Sends the records of this turn, behind what is still unsent; false if the connection is gone. */
static bool flush(struct connection *connection) {
    struct buffer *unsent = &connection->unsent, *from = unsent->count ? unsent : &records;
    if (from == unsent) append(unsent, records.bytes, records.count);
    size_t at = from == unsent ? connection->sent : 0;
    ssize_t sent = from->count > at ? send(connection->descriptor, from->bytes + at, from->count - at, MSG_NOSIGNAL) : 0;
    if (sent < 0 && errno != EAGAIN) return false;
    at += sent > 0 ? sent : 0;
    size_t rest = from->count - at;
    if (!rest) {
        if (unsent->capacity) drop(unsent);
        at = 0;
    } else if (from == &records) {
        append(unsent, records.bytes + at, rest);
        at = 0;
    }
    connection->sent = at;
    records.count = 0;
    if ((rest > 0) != connection->is_blocked) await(connection, rest > 0);
    return true;
}

static void unmask(uint8_t *bytes, size_t count, const uint8_t *key) {
    uint64_t mask, word;
    memcpy(&mask, key, 4);
    memcpy((uint8_t *)&mask + 4, key, 4);
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        memcpy(&word, bytes + i, 8);
        word ^= mask;
        memcpy(bytes + i, &word, 8);
    }
    for (; i < count; i++) bytes[i] ^= key[i & 3];
}

/* Answers the whole frames of `in`, and leaves the rest; false if the connection is to end. */
static bool answer_frames(struct buffer *in) {
    size_t at = 0;
    bool is_good = true;
    while (is_good && in->count - at >= 6) {
        uint8_t *frame = in->bytes + at;
        uint64_t length = frame[1] & 0x7f;
        size_t head = length == 126 ? 8 : length == 127 ? 14 : 6;
        if (in->count - at < head) break;
        if (length >= 126) {
            length = 0;
            for (size_t i = 2; i < head - 4; i++) length = length << 8 | frame[i];
        }
        if (!(frame[1] & 0x80) || length > MAXIMUM_MESSAGE) return false;
        if (in->count - at < head + length) break;
        unmask(frame + head, length, frame + head - 4);
        switch (frame[0]) {
        case 0x82: is_good = answer((char *)frame + head, length, &outgoing); break;
        case 0x89:
            write_head(&outgoing, 10, length);
            append(&outgoing, frame + head, length);
            break;
        case 0x8a: break;
        case 0x88:
            write_head(&outgoing, 8, length);
            append(&outgoing, frame + head, length);
            is_good = false;
            break;
        default: is_good = false;
        }
        at += head + length;
    }
    memmove(in->bytes, in->bytes + at, in->count - at);
    in->count -= at;
    return is_good;
}

/* Answers the opening handshake once it is whole. */
static bool upgrade(struct connection *connection, struct buffer *in) {
    uint8_t *end = memmem(in->bytes, in->count, "\r\n\r\n", 4);
    if (!end) return in->count < READ_BYTES;
    *end = 0;
    char *key = strcasestr((char *)in->bytes, "\r\nSec-WebSocket-Key:");
    if (!key) return false;
    key += strlen("\r\nSec-WebSocket-Key:");
    key += strspn(key, " ");
    char text[128], accept[64], reply[256];
    uint8_t digest[EVP_MAX_MD_SIZE];
    snprintf(text, sizeof text, "%.*s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", (int)strcspn(key, "\r "), key);
    EVP_Digest(text, strlen(text), digest, NULL, EVP_sha1(), NULL);
    EVP_EncodeBlock((uint8_t *)accept, digest, 20);
    int count = snprintf(reply, sizeof reply,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    append(&outgoing, reply, count);
    size_t used = end + 4 - in->bytes;
    memmove(in->bytes, in->bytes + used, in->count - used);
    in->count -= used;
    connection->is_upgraded = true;
    return true;
}

/* Reads what is there and answers it; false if the connection is to end. */
static bool serve(struct connection *connection) {
    if (!connection->is_secure) {
        int result = SSL_accept(connection->ssl);
        if (!flush(connection)) return false;
        if (result != 1) return SSL_get_error(connection->ssl, result) == SSL_ERROR_WANT_READ;
        connection->is_secure = true;
    }
    struct buffer *in = connection->in.count ? &connection->in : &incoming;
    do {
        int count = SSL_read(connection->ssl, reserve(in, READ_BYTES), READ_BYTES);
        if (count <= 0) {
            if (SSL_get_error(connection->ssl, count) != SSL_ERROR_WANT_READ) return false;
            break;
        }
        in->count += count;
    } while (SSL_has_pending(connection->ssl));
    bool is_good = connection->is_upgraded || upgrade(connection, in);
    if (is_good && connection->is_upgraded) is_good = answer_frames(in);
    if (in == &incoming && in->count) append(&connection->in, in->bytes, in->count);
    if (!connection->in.count && connection->in.capacity) drop(&connection->in);
    incoming.count = 0;
    if (outgoing.count && SSL_write(connection->ssl, outgoing.bytes, outgoing.count) <= 0) is_good = false;
    outgoing.count = 0;
    return flush(connection) && is_good;
}

static void end(struct connection *connection) {
    ERR_clear_error();
    incoming.count = outgoing.count = records.count = 0;
    SSL_shutdown(connection->ssl);
    flush(connection);
    close(connection->descriptor);
    SSL_free(connection->ssl);
    drop(&connection->in);
    drop(&connection->unsent);
    free(connection);
}

static void accept_all(int listener, SSL_CTX *context, BIO_METHOD *collect) {
    int descriptor;
    while ((descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct connection *connection = calloc(1, sizeof *connection);
        if (!connection || !(connection->ssl = SSL_new(context))) fail("memory");
        connection->descriptor = descriptor;
        BIO *write = BIO_new(collect);
        BIO_set_init(write, 1);
        SSL_set_bio(connection->ssl, BIO_new_socket(descriptor, BIO_NOCLOSE), write);
        SSL_set_accept_state(connection->ssl);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, descriptor, &event)) fail("epoll");
    }
}

static SSL_CTX *make_context(char **files) {
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384") || SSL_CTX_use_certificate_chain_file(context, files[0]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, files[1], SSL_FILETYPE_PEM) != 1 || SSL_CTX_load_verify_file(context, files[2]) != 1)
        fail("TLS");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_BYTES);
    return context;
}

int main(int count, char **arguments) {
    if (count < 4) {
        fprintf(stderr, "usage: floor CERTIFICATE KEY TRUST [ROCKSDB-DIRECTORY]\n");
        return 64;
    }
    SSL_CTX *context = make_context(arguments + 1);
    BIO_METHOD *collect = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "collect");
    BIO_meth_set_write(collect, collect_write);
    BIO_meth_set_ctrl(collect, collect_control);
    if (count > 4) open_database(arguments[4]);

    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4096) ||
        getsockname(listener, (struct sockaddr *)&address, &length))
        fail("listen");
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[MAXIMUM_EVENTS] = {{.events = EPOLLIN}};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, events);
    printf("listening on wss://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);

    for (;;) {
        int ready = epoll_wait(poller, events, MAXIMUM_EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!connection) {
                accept_all(listener, context, collect);
            } else if (connection->is_blocked && !(events[i].events & (EPOLLERR | EPOLLHUP))) {
                if (!flush(connection)) end(connection);
            } else if (!serve(connection)) {
                end(connection);
            }
        }
    }
}
