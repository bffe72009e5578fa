/* loadgen: HTTP/1.1 load generator for chat-completion gateways (plain and SSE).
 *
 * usage: loadgen --port P [--path /v1/chat/completions] [--body FILE] [-H 'Name: v']...
 *                [--conns 16] [--secs 5] [--warm 0.5] [--rate 0] [--max-reqs 0] [--need-done 1]
 *                [--drain 10]
 *
 * Closed loop by default: every connection sends its next request as soon as the
 * last one ended. --rate R makes it an open loop: request k is due at k/R seconds
 * and its latency is counted from then, so a stalled server is charged for the
 * requests it kept waiting (no coordinated omission). After --secs nothing new is due, and
 * up to --drain seconds pass until what is due was sent and answered; what then is left is
 * counted as in_flight_at_end and unsent.
 * Sixteen @ in the body, if there are any, become a number of their own in every request.
 * Prints one JSON object: requests, errors by kind, rps, latency percentiles (ms),
 * and for SSE also ttfc (time to first data event), events/s, and gap percentiles.
 * Only 127.0.0.1 is ever contacted. A reply counts only if it is 200 and complete;
 * an SSE reply must also hold [DONE], unless --need-done 0 (some gateways leave it out).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IDLE, HEAD, BODY, CH_SIZE, CH_DATA, CH_CRLF, CH_TRAILER };
typedef struct {
  int fd, st, status, sse, chunked, until_close, done_seen, line_len, close_after;
  char hdr[8192];
  size_t hdr_len;
  char szbuf[32];
  int sz_len;
  char line[16];
  size_t left, out_off;
  uint64_t t_due, t_first, t_last_ev;
  unsigned events;
  int busy;
} conn;
typedef struct {
  float *v;
  size_t n, cap;
} vec;

static int ep, port = 0;
static char *req;
static size_t req_len;
/* Sixteen digits of the body that are written anew for each request: no two are the same. */
#define MARK "@@@@@@@@@@@@@@@@"
static char *mark;
static unsigned long long first_number;
static conn *cs;
static int nconns = 16;
static double secs = 5, warm = 0.5, rate = 0, drain = 10;
static unsigned long long max_reqs = 0, issued = 0;
static vec lat, ttfc, gaps;
static unsigned long long ok, err_status, err_conn, err_incomplete, events_total, started_n,
    bytes_in;
static uint64_t t0, t_meas, t_end;
static int need_done = 1, first_bad_status;
static int *idle_stack, idle_n;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}
static void push(vec *v, double x) {
  if (v->n == v->cap)
    v->v = realloc(v->v, sizeof(float) * (v->cap = v->cap ? v->cap * 2 : 65536));
  v->v[v->n++] = (float)x;
}
static int cmpf(const void *a, const void *b) {
  float x = *(float *)a, y = *(float *)b;
  return (x > y) - (x < y);
}
static void pct(const char *name, vec *v) {
  qsort(v->v, v->n, sizeof(float), cmpf);
  double s = 0;
  for (size_t i = 0; i < v->n; i++)
    s += v->v[i];
#define Q(p) (v->n ? v->v[(size_t)((v->n - 1) * (p))] : -1.0)
  printf("\"%s\":{\"n\":%zu,\"mean\":%.4f,\"p50\":%.4f,\"p90\":%.4f,\"p99\":%.4f,\"p999\":%.4f,"
         "\"max\":%.4f},",
         name, v->n, v->n ? s / v->n : -1.0, Q(.5), Q(.9), Q(.99), Q(.999), Q(1.0));
}
static int dial(conn *c) {
  struct sockaddr_in a = {
      .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(c->fd, (void *)&a, sizeof a)) {
    close(c->fd);
    c->fd = -1;
    return -1;
  }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
  epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
  return 0;
}
static int start(conn *c, uint64_t due) {
  if (c->fd < 0 && dial(c)) {
    err_conn++;
    return -1;
  }
  c->st = HEAD;
  c->hdr_len = 0;
  c->status = 0;
  c->events = 0;
  c->done_seen = 0;
  c->line_len = 0;
  c->t_first = 0;
  c->t_last_ev = 0;
  c->busy = 1;
  c->close_after = 0;
  c->t_due = due;
  started_n++;
  if (mark) {
    char digits[sizeof MARK];
    snprintf(digits, sizeof digits, "%016llx", first_number + started_n);
    memcpy(mark, digits, sizeof MARK - 1);
  }
  ssize_t w = send(c->fd, req, req_len, MSG_NOSIGNAL);
  if (w !=
      (ssize_t)
          req_len) { /* small requests only: treat a short or failed write as a lost connection */
    close(c->fd);
    c->fd = -1;
    c->busy = 0;
    if (dial(c) || send(c->fd, req, req_len, MSG_NOSIGNAL) != (ssize_t)req_len) {
      err_conn++;
      return -1;
    }
    c->busy = 1;
  }
  return 0;
}
static void next(conn *c);
static void drop(conn *c) {
  if (c->fd >= 0)
    close(c->fd);
  c->fd = -1;
}
static void finish(conn *c, int complete) {
  uint64_t n = now_ns();
  /* Closed loop: by completion, so slow targets are not cut short. Open loop: by due time, so a
   * stalled server is charged for every request that it kept waiting. */
  uint64_t at = rate > 0 ? c->t_due : n;
  int counted = at >= t_meas && at <= t_end;
  c->busy = 0;
  c->st = IDLE;
  if (counted) {
    if (!complete || (need_done && c->sse && !c->done_seen && c->status == 200))
      err_incomplete++;
    else if (c->status != 200) {
      err_status++;
      if (!first_bad_status)
        first_bad_status = c->status;
    } else {
      ok++;
      push(&lat, (n - c->t_due) / 1e6);
      if (c->sse) {
        events_total += c->events;
        if (c->t_first)
          push(&ttfc, (c->t_first - c->t_due) / 1e6);
      }
    }
  }
  if (!complete || c->close_after)
    drop(c);
  next(c);
}
static void next(conn *c) {
  uint64_t n = now_ns();
  if (rate > 0) {
    idle_stack[idle_n++] = c - cs;
    return;
  }
  if (n >= t_end || (max_reqs && started_n >= max_reqs))
    return;
  if (start(c, n)) {
    struct timespec ts = {0, 2000000};
    nanosleep(&ts, NULL);
    idle_stack[idle_n++] = c - cs;
  }
}
static void scan_sse(conn *c, const char *p, size_t n) {
  if (!c->sse)
    return;
  for (size_t i = 0; i < n; i++) {
    char ch = p[i];
    if (ch == '\n') {
      c->line[c->line_len < 15 ? c->line_len : 15] = 0;
      if (!strncmp(c->line, "data:", 5)) {
        uint64_t t = now_ns();
        const char *v = c->line + 5;
        while (*v == ' ')
          v++;
        if (!strncmp(v, "[DONE]", 6))
          c->done_seen = 1;
        else {
          if (!c->t_first)
            c->t_first = t;
          else if (t >= t_meas && gaps.n < 4000000)
            push(&gaps, (t - c->t_last_ev) / 1e6);
          c->t_last_ev = t;
          c->events++;
        }
      }
      c->line_len = 0;
    } else {
      if (c->line_len < 15)
        c->line[c->line_len] = ch;
      c->line_len++;
    }
  }
}
static void feed(conn *c, char *p, size_t n) {
  while (n && c->busy) {
    switch (c->st) {
    case HEAD: {
      size_t old = c->hdr_len, take = n < sizeof c->hdr - 1 - old ? n : sizeof c->hdr - 1 - old;
      if (!take) {
        finish(c, 0);
        return;
      }
      memcpy(c->hdr + old, p, take);
      c->hdr[old + take] = 0;
      char *e = strstr(c->hdr + (old > 3 ? old - 3 : 0), "\r\n\r\n");
      if (!e) {
        c->hdr_len += take;
        p += take;
        n -= take;
        break;
      }
      size_t used = e - c->hdr + 4 - old;
      p += used;
      n -= used;
      e[2] = 0;
      c->status = atoi(c->hdr + 9);
      c->chunked = 0;
      c->sse = 0;
      c->until_close = 1;
      c->left = 0;
      for (char *l = strchr(c->hdr, '\n'); l && l[1]; l = strchr(l + 1, '\n')) {
        if (!strncasecmp(l + 1, "content-length:", 15)) {
          c->left = strtoul(l + 16, NULL, 10);
          c->until_close = 0;
        } else if (!strncasecmp(l + 1, "transfer-encoding: chunked", 26)) {
          c->chunked = 1;
          c->until_close = 0;
        } else if (!strncasecmp(l + 1, "content-type: text/event-stream", 31))
          c->sse = 1;
        else if (!strncasecmp(l + 1, "connection: close", 17))
          c->close_after = 1;
      }
      if (c->chunked) {
        c->st = CH_SIZE;
        c->sz_len = 0;
      } else {
        c->st = BODY;
        if (!c->until_close && !c->left) {
          finish(c, 1);
          return;
        }
      }
      break;
    }
    case BODY: {
      size_t take = (!c->until_close && c->left < n) ? c->left : n;
      scan_sse(c, p, take);
      p += take;
      n -= take;
      if (!c->until_close && !(c->left -= take)) {
        finish(c, 1);
        return;
      }
      break;
    }
    case CH_SIZE:
      while (n) {
        char ch = *p++;
        n--;
        if (ch == '\n') {
          c->szbuf[c->sz_len] = 0;
          c->left = strtoul(c->szbuf, NULL, 16);
          c->st = c->left ? CH_DATA : CH_TRAILER;
          c->sz_len = 0;
          break;
        }
        if (c->sz_len < 30)
          c->szbuf[c->sz_len++] = ch;
      }
      break;
    case CH_DATA: {
      size_t take = c->left < n ? c->left : n;
      scan_sse(c, p, take);
      p += take;
      n -= take;
      if (!(c->left -= take)) {
        c->st = CH_CRLF;
        c->sz_len = 0;
      }
      break;
    }
    case CH_CRLF:
      while (n) {
        char ch = *p++;
        n--;
        if (ch == '\n') {
          c->st = CH_SIZE;
          c->sz_len = 0;
          break;
        }
      }
      break;
    case CH_TRAILER:
      while (n) {
        char ch = *p++;
        n--;
        if (ch == '\n') {
          if (c->sz_len == 0) {
            finish(c, 1);
            return;
          }
          c->sz_len = 0;
        } else if (ch != '\r')
          c->sz_len++;
      }
      break;
    default:
      return;
    }
  }
}
static uint64_t next_due(void) {
  return t0 + (uint64_t)(issued / rate * 1e9);
}
/* Nothing is in flight and, in an open loop, nothing that was due is still to be sent. */
static int drained(void) {
  for (int i = 0; i < nconns; i++)
    if (cs[i].busy)
      return 0;
  return rate <= 0 || next_due() > t_end;
}
int main(int argc, char **argv) {
  const char *path = "/v1/chat/completions", *bodyf = NULL,
             *auth = "Authorization: Bearer sk-bench\r\n";
  char heads[4096] = "";
  for (int i = 1; i + 1 < argc; i += 2) {
    char *k = argv[i], *v = argv[i + 1];
    if (!strcmp(k, "--port"))
      port = atoi(v);
    else if (!strcmp(k, "--path"))
      path = v;
    else if (!strcmp(k, "--body"))
      bodyf = v;
    else if (!strcmp(k, "-H")) {
      strncat(heads, v, 2000);
      strcat(heads, "\r\n");
      if (!strncasecmp(v, "authorization:", 14))
        auth = "";
    } else if (!strcmp(k, "--conns"))
      nconns = atoi(v);
    else if (!strcmp(k, "--secs"))
      secs = atof(v);
    else if (!strcmp(k, "--warm"))
      warm = atof(v);
    else if (!strcmp(k, "--rate"))
      rate = atof(v);
    else if (!strcmp(k, "--drain"))
      drain = atof(v);
    else if (!strcmp(k, "--need-done"))
      need_done = atoi(v);
    else if (!strcmp(k, "--max-reqs"))
      max_reqs = strtoull(v, NULL, 10);
    else {
      fprintf(stderr, "unknown option %s\n", k);
      return 2;
    }
  }
  if (!port || !bodyf) {
    fprintf(stderr, "need --port and --body\n");
    return 2;
  }
  FILE *f = fopen(bodyf, "rb");
  if (!f) {
    perror(bodyf);
    return 2;
  }
  char *body = malloc(1 << 20);
  size_t bl = fread(body, 1, 1 << 20, f);
  fclose(f);
  req = malloc(bl + 8192);
  req_len = sprintf(req,
                    "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: "
                    "application/json\r\nAccept: */*\r\n%s%sContent-Length: %zu\r\n\r\n",
                    path, port, auth, heads, bl);
  memcpy(req + req_len, body, bl);
  req_len += bl;
  mark = memmem(req, req_len, MARK, sizeof MARK - 1);
  struct timespec wall; /* numbers go on from run to run */
  clock_gettime(CLOCK_REALTIME, &wall);
  first_number = (unsigned long long)wall.tv_sec * 1000000000ull + wall.tv_nsec;
  signal(SIGPIPE, SIG_IGN);
  ep = epoll_create1(0);
  cs = calloc(nconns, sizeof *cs);
  idle_stack = calloc(nconns * 4 + 16, sizeof(int));
  for (int i = 0; i < nconns; i++) {
    cs[i].fd = -1;
    if (dial(&cs[i])) {
      fprintf(stderr, "cannot connect to 127.0.0.1:%d\n", port);
      return 1;
    }
  }
  t0 = now_ns();
  t_meas = t0 + (uint64_t)(warm * 1e9);
  t_end = t_meas + (uint64_t)(secs * 1e9);
  if (rate > 0)
    for (int i = nconns - 1; i >= 0; i--)
      idle_stack[idle_n++] = i;
  else
    for (int i = 0; i < nconns; i++)
      next(&cs[i]);
  static char buf[1 << 18];
  struct epoll_event ev[512];
  for (;;) {
    uint64_t n = now_ns();
    if (n >= t_end && (drained() || n >= t_end + (uint64_t)(drain * 1e9)))
      break;
    if (max_reqs && started_n >= max_reqs) {
      int b = 0;
      for (int i = 0; i < nconns; i++)
        b |= cs[i].busy;
      if (!b) {
        t_end = n;
        break;
      }
    }
    int to = n < t_end ? (int)((t_end - n) / 1000000) + 1 : 20;
    if (rate > 0) {
      while (idle_n) {
        uint64_t due = next_due();
        if (due > n || due > t_end)
          break;
        if (max_reqs && started_n >= max_reqs)
          break;
        conn *c = &cs[idle_stack[--idle_n]];
        issued++;
        if (start(c, due)) {
          idle_stack[idle_n++] = c - cs;
          break;
        }
      }
      if (idle_n) {
        uint64_t due = next_due();
        n = now_ns();
        to = due > t_end ? to : due > n ? (int)((due - n) / 1000000) : 0;
      }
    } else if (idle_n) {
      int k = idle_n;
      idle_n = 0;
      for (int i = 0; i < k; i++)
        next(&cs[idle_stack[i]]);
      to = 5;
    }
    int k = epoll_wait(ep, ev, 512, to);
    for (int i = 0; i < k; i++) {
      conn *c = ev[i].data.ptr;
      if (c->fd < 0)
        continue;
      ssize_t r = recv(c->fd, buf, sizeof buf, MSG_DONTWAIT);
      if (r > 0) {
        bytes_in += r;
        feed(c, buf, r);
      } else if (r == 0 || (errno != EAGAIN && errno != EINTR)) {
        if (!c->busy)
          drop(c);
        else if (c->st == BODY && c->until_close) {
          c->close_after = 1;
          finish(c, 1);
        } else {
          drop(c);
          finish(c, 0);
        }
      }
    }
  }
  double el = (t_end - t_meas) / 1e9;
  unsigned long long stuck = 0, unsent = 0;
  if (rate > 0 && !max_reqs)
    for (; next_due() <= t_end; issued++)
      unsent++;
  for (int i = 0; i < nconns; i++)
    stuck += cs[i].busy;
  printf("{\"conns\":%d,\"secs\":%.3f,\"rate\":%.1f,\"ok\":%llu,\"err_status\":%llu,\"bad_status\":"
         "%d,\"err_conn\":%llu,\"err_incomplete\":%llu,\"started\":%llu,\"in_flight_at_end\":%llu,"
         "\"unsent\":%llu,",
         nconns, el, rate, ok, err_status, first_bad_status, err_conn, err_incomplete, started_n,
         stuck, unsent);
  printf("\"rps\":%.2f,\"mb_in\":%.2f,\"events\":%llu,\"events_per_s\":%.1f,", ok / el,
         bytes_in / 1e6, events_total, events_total / el);
  pct("lat_ms", &lat);
  pct("ttfc_ms", &ttfc);
  pct("gap_ms", &gaps);
  printf("\"v\":1}\n");
  return 0;
}
