/* A libnvidia-ml.so.1 for tests: it answers what stands in the file that FAKE_NVML names.

   driver VERSION          gpu UUID NAME           what follows a gpu is its own:
   util PERCENT            power MILLIWATTS        energy MILLIJOULES
   mig 0|1                 many COUNT              so many more processes, from PID 1000000 on
   proc PID BYTES [GI CI]  graphics PID BYTES      share PID PERCENT       newshare PID PERCENT
   mps PID BYTES           lost 0|1                gpm METRIC VALUE: one of its pipes, or nan
   fail FUNCTION CODE      hang FUNCTION MS

   A handle is of the device with its UUID, until that is lost or gone, or the library is shut down.

   -DOLD leaves out the functions that drivers before 450 do not have. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef int R;
typedef unsigned U;
typedef unsigned long long L;
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, LOST = 15,
       MISMATCH = 25 };
#define GPUS 16
#define PIDS 64

typedef struct { U pid; L used; U gi, ci; } P;
typedef struct { U pid; L used; } P1;
typedef struct { U pid; L at; U sm, mem, enc, dec; } S;
typedef struct { L at; U pid, sm, mem, enc, dec, jpg, ofa; } S2;
typedef struct { U version, n; L last; S2 *entries; } Q2;
typedef struct {
  char uuid[96], name[96];
  U util, power, mig, many, lost, n, ng, nm, ns, ns2, npipes;
  L energy;
  P p[PIDS], g[PIDS], m[PIDS];
  struct { U pid, sm; } s[PIDS], s2[PIDS];
  struct { U id; double value; } pipes[PIDS];
} G;
typedef struct { char uuid[96]; int start; } H;
typedef struct { U id; R code; double value; const char *text[3]; } M;
typedef struct { G of; L at; } T;
typedef struct { U version, n; T *before, *now; M metrics[]; } Q;

static G gpus[GPUS];
static int count, faults, starts, samples;
static char driver[80];
static struct { char name[64]; int code, ms; } fault[32];

static void load(void) {
  const char *path = getenv("FAKE_NVML");
  FILE *file = path ? fopen(path, "r") : 0;
  char line[512], a[96], b[96];
  G *g = 0;
  count = faults = 0;
  if (!file) return;
  while (fgets(line, sizeof line, file)) {
    int k; U n, s; L x; double d; P p = {0, 0, ~0u, ~0u};
    if (sscanf(line, "driver %79s", driver) == 1) continue;
    if (sscanf(line, "gpu %95s %95[^\n]", a, b) == 2 && count < GPUS) {
      g = &gpus[count++];
      memset(g, 0, sizeof *g);
      strcpy(g->uuid, a); strcpy(g->name, b);
    } else if (sscanf(line, "fail %63s %d", a, &k) == 2) {
      strcpy(fault[faults].name, a); fault[faults].ms = 0; fault[faults++].code = k;
    } else if (sscanf(line, "hang %63s %d", a, &k) == 2) {
      strcpy(fault[faults].name, a); fault[faults].code = 0; fault[faults++].ms = k;
    } else if (!g) {
      continue;
    } else if (sscanf(line, "util %u", &g->util) == 1 || sscanf(line, "power %u", &g->power) == 1 ||
               sscanf(line, "mig %u", &g->mig) == 1 || sscanf(line, "many %u", &g->many) == 1 ||
               sscanf(line, "lost %u", &g->lost) == 1) {
      continue;
    } else if (sscanf(line, "gpm %u %lf", &n, &d) == 2) {
      g->pipes[g->npipes].id = n; g->pipes[g->npipes++].value = d;
    } else if (sscanf(line, "mps %u %llu", &p.pid, &p.used) == 2) {
      g->m[g->nm++] = p;
    } else if (sscanf(line, "energy %llu", &x) == 1) {
      g->energy = x;
    } else if (sscanf(line, "proc %u %llu %u %u", &p.pid, &p.used, &p.gi, &p.ci) >= 2) {
      g->p[g->n++] = p;
    } else if (sscanf(line, "graphics %u %llu", &p.pid, &p.used) == 2) {
      g->g[g->ng++] = p;
    } else if (sscanf(line, "share %u %u", &n, &s) == 2) {
      g->s[g->ns].pid = n; g->s[g->ns++].sm = s;
    } else if (sscanf(line, "newshare %u %u", &n, &s) == 2) {
      g->s2[g->ns2].pid = n; g->s2[g->ns2++].sm = s;
    }
  }
  fclose(file);
}

static R enter(const char *name) {
  load();
  for (int i = 0; i < faults; i++)
    if (!strcmp(fault[i].name, name)) {
      if (!fault[i].ms) return fault[i].code;
      usleep(fault[i].ms * 1000);
    }
  return OK;
}
#define ENTER R failed = enter(__func__); if (failed) return failed
#define DEVICE ENTER; G *g = 0; failed = of(h, &g); if (failed) return failed

static R of(const H *h, G **g) {
  if (h->start != starts) return UNINITIALIZED;
  for (int i = 0; i < count; i++)
    if (!strcmp(gpus[i].uuid, h->uuid) && !gpus[i].lost) *g = &gpus[i];
  return *g ? OK : LOST;
}

static L now(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

R nvmlInitWithFlags(U flags) { ENTER; (void)flags; starts++; return OK; }
R nvmlShutdown(void) { starts++; return OK; }
R fakeStarts(void) { return starts; }
R fakeSamples(void) { return samples; }
R nvmlSystemGetDriverVersion(char *s, U n) { ENTER; snprintf(s, n, "%s", driver); return OK; }
R nvmlDeviceGetCount_v2(U *n) { ENTER; *n = count; return OK; }
R nvmlDeviceGetHandleByIndex_v2(U i, void **h) {
  ENTER;
  if (i >= (U)count) return INVALID;
  if (gpus[i].lost) return LOST;
  H *handle = calloc(1, sizeof *handle);
  strcpy(handle->uuid, gpus[i].uuid);
  handle->start = starts;
  *h = handle;
  return OK;
}
R nvmlDeviceGetUUID(H *h, char *s, U n) { DEVICE; snprintf(s, n, "%s", g->uuid); return OK; }
R nvmlDeviceGetName(H *h, char *s, U n) { DEVICE; snprintf(s, n, "%s", g->name); return OK; }
R nvmlDeviceGetUtilizationRates(H *h, U *u) { DEVICE; u[0] = g->util; u[1] = 0; return OK; }
R nvmlDeviceGetPowerUsage(H *h, U *p) { DEVICE; *p = g->power; return OK; }
R nvmlDeviceGetProcessUtilization(H *h, S *s, U *n, L last) {
  DEVICE; (void)last;
  if (!g->ns) return NOT_FOUND;
  if (!s || *n < g->ns) { *n = g->ns; return SMALL; }
  for (U i = 0; i < g->ns; i++) {
    memset(&s[i], 0, sizeof *s);
    s[i].pid = g->s[i].pid; s[i].sm = g->s[i].sm; s[i].at = now();
  }
  *n = g->ns;
  return OK;
}
#ifdef OLD
R nvmlDeviceGetComputeRunningProcesses(H *h, U *n, P1 *p) {
  DEVICE;
  if (g->n && (!p || *n < g->n)) { *n = g->n; return SMALL; }
  for (U i = 0; i < g->n; i++) p[i] = (P1){g->p[i].pid, g->p[i].used};
  *n = g->n;
  return OK;
}
#else
static void copy(const P *from, U have, P *to, U *n) {
  for (U i = 0; i < have; i++) to[(*n)++] = from[i];
}
static R listed(G *g, U *n, P *p) {
  U need = g->n + g->many, have = 0;
  if (need && (!p || *n < need)) { *n = need; return SMALL; }
  copy(g->p, g->n, p, &have);
  for (U i = 0; i < g->many; i++) p[have++] = (P){1000000 + i, 1 << 20, ~0u, ~0u};
  *n = have;
  return OK;
}
R nvmlDeviceGetMigMode(H *h, U *mode, U *pending) { DEVICE; *mode = *pending = g->mig; return OK; }
R nvmlDeviceGetTotalEnergyConsumption(H *h, L *e) { DEVICE; *e = g->energy; return OK; }
R nvmlDeviceGetComputeRunningProcesses_v3(H *h, U *n, P *p) { DEVICE; return listed(g, n, p); }
static R few(const P *from, U have, U *n, P *p) {
  if (have && (!p || *n < have)) { *n = have; return SMALL; }
  *n = 0;
  copy(from, have, p, n);
  return OK;
}
R nvmlDeviceGetMPSComputeRunningProcesses_v3(H *h, U *n, P *p) { DEVICE; return few(g->m, g->nm, n, p); }
R nvmlDeviceGetGraphicsRunningProcesses_v3(H *h, U *n, P *p) { DEVICE; return few(g->g, g->ng, n, p); }
R nvmlDeviceGetProcessesUtilizationInfo(H *h, Q2 *q) {
  DEVICE;
  if (q->version != (sizeof *q | 1u << 24)) return INVALID;
  if (!g->ns2) return NOT_FOUND;
  if (q->n < g->ns2) { q->n = g->ns2; return SMALL; }
  for (U i = 0; i < g->ns2; i++) q->entries[i] = (S2){now(), g->s2[i].pid, g->s2[i].sm, 0, 0, 0, 0, 0};
  q->n = g->ns2;
  return OK;
}
R nvmlGpmQueryDeviceSupport(H *h, U *s) {
  DEVICE;
  if (s[0] != 1) return MISMATCH;
  s[1] = g->npipes > 0;
  return OK;
}
R nvmlGpmSampleAlloc(T **t) { ENTER; *t = calloc(1, sizeof **t); samples++; return OK; }
R nvmlGpmSampleFree(T *t) { ENTER; free(t); samples--; return OK; }
R nvmlGpmSampleGet(H *h, T *t) { DEVICE; t->of = *g; t->at = now(); return OK; }
R nvmlGpmMetricsGet(Q *q) {
  ENTER;
  if (q->version != 1) return MISMATCH;
  if (strcmp(q->before->of.uuid, q->now->of.uuid) || q->before->at >= q->now->at) return INVALID;
  for (U i = 0; i < q->n; i++) {
    q->metrics[i].code = UNSUPPORTED;
    for (U k = 0; k < q->now->of.npipes; k++)
      if (q->now->of.pipes[k].id == q->metrics[i].id) {
        q->metrics[i].code = OK;
        q->metrics[i].value = q->now->of.pipes[k].value;
      }
  }
  return OK;
}
#endif
