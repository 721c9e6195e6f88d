/* A stand-in for the CUDA driver's library: memory is the host's, and a stream does its work when it is waited for. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MOST 64
typedef struct { void *to; const void *from; int value; size_t size; } Work;
typedef struct { int count; Work work[MOST]; } List;
typedef struct { int capturing; List now, captured; } Stream;

static int started, held, current;
static char context;

/* What the calls below were given and still hold; a test asks for it. */
int standin_held(void) { return held; }

int cuInit(unsigned flags) { started = 1; return flags ? 1 : 0; }
int cuGetErrorString(int code, const char **text) {
    *text = code == 2 ? "out of memory" : "something else";
    return 0;
}
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = started ? 1 : 0; return 0; }
int cuDeviceGet(int *device, int index) { *device = 40 + index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Imagined GPU", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute == 18) *value = getenv("STANDIN_INTEGRATED") != NULL;
    else *value = attribute == 75 ? 8 : 7;
    return 0;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = (size_t)3 << 30;
    *total = (size_t)7 << 30;
    return current ? 0 : 201;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)7 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **made, int device) { *made = &context; return device == 40 ? 0 : 101; }
int cuCtxSetCurrent(void *given) { current = given == &context; return current ? 0 : 201; }

int cuMemAlloc_v2(unsigned long long *address, size_t size) {
    if (!current) return 201;
    if (size > (size_t)1 << 40) return 2;
    void *made = malloc(size);
    memset(made, 0xA5, size);
    *address = (unsigned long long)(size_t)made;
    held++;
    return 0;
}
int cuMemFree_v2(unsigned long long address) { free((void *)(size_t)address); held--; return 0; }
int cuMemHostAlloc(void **address, size_t size, unsigned flags) { *address = malloc(size); held++; return flags; }
int cuMemFreeHost(void *address) { free(address); held--; return 0; }

int cuStreamCreate(void **stream, unsigned flags) { *stream = calloc(1, sizeof(Stream)); held++; return flags != 1; }
int cuStreamDestroy_v2(void *stream) { free(stream); held--; return 0; }

static int give(Stream *stream, Work work) {
    List *list = stream->capturing ? &stream->captured : &stream->now;
    if (list->count == MOST) return 2;
    list->work[list->count++] = work;
    return 0;
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t size, void *stream) {
    return give(stream, (Work){(void *)(size_t)to, from, 0, size});
}
int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t size, void *stream) {
    return give(stream, (Work){to, (void *)(size_t)from, 0, size});
}
int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t size, void *stream) {
    return give(stream, (Work){(void *)(size_t)to, NULL, value, size});
}
int cuStreamSynchronize(void *given) {
    Stream *stream = given;
    if (stream->capturing) return 900;
    for (int i = 0; i < stream->now.count; i++) {
        Work work = stream->now.work[i];
        if (work.from) memcpy(work.to, work.from, work.size);
        else memset(work.to, work.value, work.size);
    }
    stream->now.count = 0;
    return 0;
}

int cuStreamBeginCapture_v2(void *given, int mode) {
    Stream *stream = given;
    stream->capturing = 1;
    stream->captured.count = 0;
    return mode != 1;
}
int cuStreamEndCapture(void *given, void **graph) {
    Stream *stream = given;
    List *made = malloc(sizeof(List));
    *made = stream->captured;
    *graph = made;
    stream->capturing = 0;
    held++;
    return 0;
}
int cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) {
    if (flags) return 1;
    *made = malloc(sizeof(List));
    memcpy(*made, graph, sizeof(List));
    held++;
    return 0;
}
int cuGraphDestroy(void *graph) { free(graph); held--; return 0; }
int cuGraphLaunch(void *graph, void *stream) {
    List *list = graph;
    for (int i = 0; i < list->count; i++)
        if (give(stream, list->work[i])) return 2;
    return 0;
}
int cuGraphExecDestroy(void *graph) { free(graph); held--; return 0; }
