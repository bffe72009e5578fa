/* mock_upstream: a fast OpenAI-compatible chat-completions upstream for benchmarks.
 *
 * Single-threaded epoll HTTP/1.1 server with keep-alive. Any POST gets a canned
 * chat completion; a body holding "stream":true (spaces allowed) gets SSE with
 * --chunks content deltas, a final usage chunk and [DONE], chunk-encoded.
 * GET on any path gets a small /v1/models document (health checks).
 *
 * usage: mock_upstream [--port 9100] [--latency-ms 0] [--chunks 50]
 *                      [--interval-ms 0] [--content-bytes 400]
 * Latency is the delay before the reply (or before the first chunk); the
 * interval is the pause between chunks (0: all chunks written back to back,
 * one write per chunk). `POST /control?latency_ms=50&interval_ms=10` changes both while it
 * runs, so that one upstream, and one start of every gateway, serves all modes of a benchmark.
 * Every answer has an id and a beginning of its own, as real ones have, so that a gateway that
 * stores equal texts once has no advantage here.
 * SIGUSR1 prints the request count to stderr. It listens on 127.0.0.1 only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct conn {
  int fd;
  char *in;
  size_t in_len, in_cap;
  char *out;
  size_t out_len, out_cap, out_off;
  int busy, streaming, next_chunk, want_write, dead;
  uint64_t gen, number;
} conn;

/* Sixteen digits that are written anew for each reply: no two answers are the same. */
#define MARK "@@@@@@@@@@@@@@@@"
typedef struct {
  size_t at[2];
  int n;
} marks;

typedef struct {
  uint64_t at;
  conn *c;
  uint64_t gen;
} timer_ent;

static int ep;
static double latency_ms = 0, interval_ms = 0;
static int n_chunks = 50, content_bytes = 400;
static char *json_reply;
static size_t json_reply_len;
static char *models_reply;
static size_t models_reply_len;
static char *sse_head;
static size_t sse_head_len;
static char **sse;
static size_t *sse_len;
static int n_sse;
static timer_ent *heap;
static size_t heap_n, heap_cap;
static volatile sig_atomic_t want_stats;
static unsigned long long served;

static marks json_marks, *sse_marks;
static uint64_t last_number;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}
static void heap_push(timer_ent e) {
  if (heap_n == heap_cap)
    heap = realloc(heap, sizeof *heap * (heap_cap = heap_cap ? heap_cap * 2 : 256));
  size_t i = heap_n++;
  while (i && heap[(i - 1) / 2].at > e.at) {
    heap[i] = heap[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  heap[i] = e;
}
static timer_ent heap_pop(void) {
  timer_ent top = heap[0], e = heap[--heap_n];
  size_t i = 0;
  for (;;) {
    size_t k = 2 * i + 1;
    if (k >= heap_n)
      break;
    if (k + 1 < heap_n && heap[k + 1].at < heap[k].at)
      k++;
    if (heap[k].at >= e.at)
      break;
    heap[i] = heap[k];
    i = k;
  }
  if (heap_n)
    heap[i] = e;
  return top;
}
static void arm(conn *c, double ms) {
  heap_push((timer_ent){now_ns() + (uint64_t)(ms * 1e6), c, c->gen});
}

static char *fmt(size_t *len, const char *f, ...) {
  va_list ap;
  char *s;
  va_start(ap, f);
  int n = vasprintf(&s, f, ap);
  va_end(ap);
  *len = (size_t)n;
  return s;
}
static void find_marks(marks *m, const char *text, size_t len) {
  for (const char *at = text; m->n < 2; at += sizeof MARK - 1) {
    at = memmem(at, len - (at - text), MARK, sizeof MARK - 1);
    if (!at)
      return;
    m->at[m->n++] = at - text;
  }
}
static void stamp(char *text, const marks *m, uint64_t number) {
  char digits[sizeof MARK];
  snprintf(digits, sizeof digits, "%016llx", (unsigned long long)number);
  for (int i = 0; i < m->n; i++)
    memcpy(text + m->at[i], digits, sizeof MARK - 1);
}
static void build_replies(void) {
  static const char *words[] = {"the ", "gateway ", "keeps ", "every ",  "trace ",
                                "and ", "fails ",   "over ",  "quickly "};
  char *content = calloc(1, content_bytes + 16);
  for (int i = 0; (int)strlen(content) < content_bytes; i++)
    strcat(content, words[i % 9]);
  content[content_bytes] = 0;
  size_t bl;
  char *b = fmt(&bl,
                "{\"id\":\"chatcmpl-" MARK "\",\"object\":\"chat.completion\",\"created\":"
                "1700000000,\"model\":\"gpt-4o-mini\","
                "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"" MARK
                " %s\","
                "\"refusal\":null},"
                "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":180,"
                "\"completion_tokens\":90,"
                "\"total_tokens\":270},\"system_fingerprint\":\"fp_mock\"}",
                content);
  json_reply = fmt(&json_reply_len,
                   "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_mock\r\n"
                   "Content-Length: %zu\r\n\r\n%s",
                   bl, b);
  const char *m = "{\"object\":\"list\",\"data\":[{\"id\":\"gpt-4o-mini\",\"object\":\"model\","
                  "\"created\":1,\"owned_by\":\"mock\"}]}";
  models_reply =
      fmt(&models_reply_len,
          "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
          strlen(m), m);
  sse_head =
      fmt(&sse_head_len, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: "
                         "no-cache\r\nTransfer-Encoding: chunked\r\n\r\n");
  find_marks(&json_marks, json_reply, json_reply_len);
  n_sse = n_chunks + 2;
  sse = calloc(n_sse, sizeof *sse);
  sse_len = calloc(n_sse, sizeof *sse_len);
  sse_marks = calloc(n_sse, sizeof *sse_marks);
  for (int i = 0; i < n_sse; i++) {
    char *p;
    size_t pl;
    const char *pre =
        "\"id\":\"chatcmpl-" MARK "\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
        "\"model\":\"gpt-4o-mini\",\"system_fingerprint\":\"fp_mock\"";
    if (i < n_chunks)
      p = fmt(&pl,
              "data: "
              "{%s,\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"%s\"},\"logprobs\":null,"
              "\"finish_reason\":null}]}\n\n",
              pre, i ? "" : "\"role\":\"assistant\",", i ? words[i % 9] : MARK " ");
    else if (i == n_chunks)
      p = fmt(&pl,
              "data: "
              "{%s,\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":"
              "\"stop\"}],\"usage\":"
              "{\"prompt_tokens\":180,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n",
              pre, n_chunks, 180 + n_chunks);
    else
      p = fmt(&pl, "data: [DONE]\n\n");
    sse[i] = fmt(&sse_len[i], "%zx\r\n%s\r\n%s", pl, p, i == n_sse - 1 ? "0\r\n\r\n" : "");
    find_marks(&sse_marks[i], sse[i], sse_len[i]);
  }
}
static void kill_conn(conn *c) {
  if (c->dead)
    return;
  c->dead = 1;
  c->gen++;
  close(c->fd);
  c->fd = -1;
  free(c->in);
  free(c->out);
  c->in = c->out = NULL;
  c->in_len = c->in_cap = c->out_len = c->out_cap = 0;
  /* the struct itself is leaked on purpose: timers may still point at it */
}
static void set_events(conn *c, int want_write) {
  if (c->want_write == want_write)
    return;
  c->want_write = want_write;
  struct epoll_event e = {.events = EPOLLIN | (want_write ? EPOLLOUT : 0), .data.ptr = c};
  epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void send_bytes(conn *c, const char *p, size_t n) {
  if (c->dead)
    return;
  if (c->out_off == c->out_len) {
    ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);
    if (w < 0 && errno != EAGAIN) {
      kill_conn(c);
      return;
    }
    if (w > 0) {
      p += w;
      n -= w;
    }
    if (!n)
      return;
    c->out_len = c->out_off = 0;
  }
  if (c->out_len + n > c->out_cap)
    c->out = realloc(c->out, c->out_cap = (c->out_len + n) * 2);
  memcpy(c->out + c->out_len, p, n);
  c->out_len += n;
  set_events(c, 1);
}
static void on_data(conn *c);
static void reply_step(conn *c) {
  if (!c->streaming) {
    stamp(json_reply, &json_marks, c->number);
    send_bytes(c, json_reply, json_reply_len);
    c->busy = 0;
    served++;
    return;
  }
  if (c->next_chunk == 0)
    send_bytes(c, sse_head, sse_head_len);
  do {
    stamp(sse[c->next_chunk], &sse_marks[c->next_chunk], c->number);
    send_bytes(c, sse[c->next_chunk], sse_len[c->next_chunk]);
    c->next_chunk++;
    if (c->dead)
      return;
  } while (c->next_chunk < n_sse && (interval_ms <= 0 || c->next_chunk > n_chunks));
  if (c->next_chunk < n_sse)
    arm(c, interval_ms);
  else {
    c->busy = 0;
    served++;
  }
}
static double query_number(const char *line, const char *key, double otherwise) {
  const char *at = strstr(line, key);
  return at ? atof(at + strlen(key)) : otherwise;
}
static int control(const char *in) {
  static const char prefix[] = "POST /control?";
  if (strncmp(in, prefix, sizeof prefix - 1))
    return 0;
  char line[256];
  size_t n = strcspn(in, "\r");
  if (n >= sizeof line)
    n = sizeof line - 1;
  memcpy(line, in, n);
  line[n] = 0;
  latency_ms = query_number(line, "latency_ms=", latency_ms);
  interval_ms = query_number(line, "interval_ms=", interval_ms);
  return 1;
}
static void on_data(conn *c) {
  while (!c->dead && !c->busy && c->in_len) {
    char *he = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!he)
      return;
    size_t head = he - c->in + 4, body = 0;
    int chunked = 0, expect = 0;
    for (char *l = memchr(c->in, '\n', head); l && l + 1 < he; l = memchr(l + 1, '\n', he - l)) {
      if (!strncasecmp(l + 1, "content-length:", 15))
        body = strtoul(l + 16, NULL, 10);
      else if (!strncasecmp(l + 1, "transfer-encoding: chunked", 26))
        chunked = 1;
      else if (!strncasecmp(l + 1, "expect: 100", 11))
        expect = 1;
    }
    (void)expect;
    size_t total = head + body;
    if (chunked) { /* scan for the end of a chunked request body */
      char *e = memmem(c->in + head - 2, c->in_len - head + 2, "\r\n0\r\n\r\n", 7);
      if (!e)
        return;
      total = e - c->in + 7;
    }
    if (c->in_len < total)
      return;
    int brief = c->in[0] == 'G' || control(c->in);
    c->streaming = 0;
    char *s = memmem(c->in + head, total - head, "\"stream\"", 8);
    if (s) {
      s += 8;
      while (*s == ' ' || *s == ':')
        s++;
      c->streaming = !strncmp(s, "true", 4);
    }
    memmove(c->in, c->in + total, c->in_len - total);
    c->in_len -= total;
    if (brief) {
      send_bytes(c, models_reply, models_reply_len);
      continue;
    }
    c->busy = 1;
    c->number = ++last_number;
    c->next_chunk = 0;
    if (latency_ms > 0)
      arm(c, latency_ms);
    else
      reply_step(c);
  }
}
static void on_usr1(int s) {
  (void)s;
  want_stats = 1;
}

int main(int argc, char **argv) {
  int port = 9100;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!strcmp(argv[i], "--port"))
      port = atoi(argv[i + 1]);
    else if (!strcmp(argv[i], "--latency-ms"))
      latency_ms = atof(argv[i + 1]);
    else if (!strcmp(argv[i], "--interval-ms"))
      interval_ms = atof(argv[i + 1]);
    else if (!strcmp(argv[i], "--chunks"))
      n_chunks = atoi(argv[i + 1]);
    else if (!strcmp(argv[i], "--content-bytes"))
      content_bytes = atoi(argv[i + 1]);
    else {
      fprintf(stderr, "unknown option %s\n", argv[i]);
      return 2;
    }
  }
  build_replies();
  struct timespec wall; /* numbers go on from run to run */
  clock_gettime(CLOCK_REALTIME, &wall);
  last_number = (uint64_t)wall.tv_sec * 1000000000ull + wall.tv_nsec;
  signal(SIGPIPE, SIG_IGN);
  signal(SIGUSR1, on_usr1);
  int one = 1, ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in a = {
      .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) {
    perror("bind");
    return 1;
  }
  ep = epoll_create1(0);
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
  epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
  struct epoll_event ev[256];
  for (;;) {
    int timeout = -1;
    uint64_t now = 0;
    if (heap_n) {
      now = now_ns();
      /* millisecond epoll: round down and poll the last fraction, so latency is not inflated */
      timeout = heap[0].at <= now ? 0 : (int)((heap[0].at - now) / 1000000);
    }
    int n = epoll_wait(ep, ev, 256, timeout);
    if (want_stats) {
      want_stats = 0;
      fprintf(stderr, "served %llu\n", served);
    }
    for (int i = 0; i < n; i++) {
      conn *c = ev[i].data.ptr;
      if (!c) {
        int fd;
        while ((fd = accept4(ls, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          c = calloc(1, sizeof *c);
          c->fd = fd;
          struct epoll_event x = {.events = EPOLLIN, .data.ptr = c};
          epoll_ctl(ep, EPOLL_CTL_ADD, fd, &x);
        }
        continue;
      }
      if (c->dead)
        continue;
      if (ev[i].events & EPOLLOUT) {
        ssize_t w = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (w < 0 && errno != EAGAIN) {
          kill_conn(c);
          continue;
        }
        if (w > 0)
          c->out_off += w;
        if (c->out_off == c->out_len) {
          c->out_off = c->out_len = 0;
          set_events(c, 0);
        }
      }
      if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        if (c->in_len + 16384 > c->in_cap)
          c->in = realloc(c->in, (c->in_cap = c->in_len + 32768) + 1);
        ssize_t r = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
        if (r == 0 || (r < 0 && errno != EAGAIN)) {
          kill_conn(c);
          continue;
        }
        if (r > 0) {
          c->in_len += r;
          c->in[c->in_len] = 0;
          on_data(c);
        }
      }
    }
    now = now_ns();
    while (heap_n && heap[0].at <= now) {
      timer_ent t = heap_pop();
      if (t.c->dead || t.gen != t.c->gen)
        continue;
      reply_step(t.c);
      if (!t.c->busy)
        on_data(t.c);
    }
  }
}
