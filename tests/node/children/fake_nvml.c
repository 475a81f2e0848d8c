/* A libnvidia-ml.so.1 for tests: it answers what stands in the file that FAKE_NVML names.

   driver VERSION          gpu UUID NAME           what follows a gpu is its own:
   util PERCENT            power MILLIWATTS        energy MILLIJOULES
   mig 0|1                 many COUNT              so many more processes, from PID 1000000 on
   proc PID BYTES [GI CI]  graphics PID BYTES      share PID PERCENT       newshare PID PERCENT
   fail FUNCTION CODE      hang FUNCTION MS

   -DOLD leaves out the functions that drivers before 450 do not have. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef int R;
typedef unsigned U;
typedef unsigned long long L;
enum { OK = 0, INVALID = 2, NOT_FOUND = 6, SMALL = 7 };
#define GPUS 16
#define PIDS 64

typedef struct { U pid; L used; U gi, ci; } P;
typedef struct { U pid; L used; } P1;
typedef struct { U pid; L at; U sm, mem, enc, dec; } S;
typedef struct { L at; U pid, sm, mem, enc, dec, jpg, ofa; } S2;
typedef struct { U version, n; L last; S2 *entries; } Q2;
typedef struct {
  char uuid[96], name[96];
  U util, power, mig, many, n, ng, ns, ns2;
  L energy;
  P p[PIDS], g[PIDS];
  struct { U pid, sm; } s[PIDS], s2[PIDS];
} G;

static G gpus[GPUS];
static int count, faults, ready;
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
    int k; U n, s; L x; P p = {0, 0, ~0u, ~0u};
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
               sscanf(line, "mig %u", &g->mig) == 1 || sscanf(line, "many %u", &g->many) == 1) {
      continue;
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
#define ENTER R failed = enter(__func__); if (failed) return failed; (void)ready

static L now(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

R nvmlInitWithFlags(U flags) { ENTER; (void)flags; ready = 1; return OK; }
R nvmlShutdown(void) { ready = 0; return OK; }
R nvmlSystemGetDriverVersion(char *s, U n) { ENTER; snprintf(s, n, "%s", driver); return OK; }
R nvmlDeviceGetCount_v2(U *n) { ENTER; *n = count; return OK; }
R nvmlDeviceGetHandleByIndex_v2(U i, void **h) {
  ENTER;
  if (i >= (U)count) return INVALID;
  *h = &gpus[i];
  return OK;
}
R nvmlDeviceGetUUID(G *g, char *s, U n) { ENTER; snprintf(s, n, "%s", g->uuid); return OK; }
R nvmlDeviceGetName(G *g, char *s, U n) { ENTER; snprintf(s, n, "%s", g->name); return OK; }
R nvmlDeviceGetUtilizationRates(G *g, U *u) { ENTER; u[0] = g->util; u[1] = 0; return OK; }
R nvmlDeviceGetPowerUsage(G *g, U *p) { ENTER; *p = g->power; return OK; }
R nvmlDeviceGetProcessUtilization(G *g, S *s, U *n, L last) {
  ENTER; (void)last;
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
R nvmlDeviceGetComputeRunningProcesses(G *g, U *n, P1 *p) {
  ENTER;
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
R nvmlDeviceGetMigMode(G *g, U *mode, U *pending) { ENTER; *mode = *pending = g->mig; return OK; }
R nvmlDeviceGetTotalEnergyConsumption(G *g, L *e) { ENTER; *e = g->energy; return OK; }
R nvmlDeviceGetComputeRunningProcesses_v3(G *g, U *n, P *p) { ENTER; return listed(g, n, p); }
R nvmlDeviceGetMPSComputeRunningProcesses_v3(G *g, U *n, P *p) {
  ENTER; (void)g; (void)p;
  *n = 0;
  return OK;
}
R nvmlDeviceGetGraphicsRunningProcesses_v3(G *g, U *n, P *p) {
  ENTER;
  if (g->ng && (!p || *n < g->ng)) { *n = g->ng; return SMALL; }
  *n = 0;
  copy(g->g, g->ng, p, n);
  return OK;
}
R nvmlDeviceGetProcessesUtilizationInfo(G *g, Q2 *q) {
  ENTER;
  if (q->version != (sizeof *q | 1u << 24)) return INVALID;
  if (!g->ns2) return NOT_FOUND;
  if (q->n < g->ns2) { q->n = g->ns2; return SMALL; }
  for (U i = 0; i < g->ns2; i++) q->entries[i] = (S2){now(), g->s2[i].pid, g->s2[i].sm, 0, 0, 0, 0, 0};
  q->n = g->ns2;
  return OK;
}
#endif
