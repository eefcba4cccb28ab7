// Streams, events and graphs. All work is done the moment it is requested, so nothing has to wait for it. The rules of
// stream capture are CUDA's: which calls break a capture, what becomes part of it, and what escapes it. A call that
// breaks a rule is logged, and fails with the error that CUDA gives.

#include "stand_in.h"

#include <atomic>
#include <set>
#include <utility>

using stand_in::breaks_capture;
using stand_in::fail;
using stand_in::Lock;
using stand_in::mutex;

namespace {

struct Stream;

// A graph is known by its number: the log has its nodes. While it is captured, `streams` are `origin`, which began it,
// and those that it was forked to; `unjoined` are those of the latter that it has not waited for since.
struct Graph {
    unsigned long long id;
    Stream* origin;
    std::set<Stream*> streams, unjoined;
};

struct Stream {
    Graph* capture = nullptr;
};

struct Event {
    bool is_recorded = false;
    Stream* stream = nullptr;
    Graph* capture = nullptr;
};

std::atomic<int> num_captures{0};
unsigned long long last_id = 0;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
thread_local int captures_of_this_thread = 0;

// nullptr for the default streams, which are small numbers and can't be captured.
Stream* stream_of(void* handle) {
    return reinterpret_cast<size_t>(handle) <= 2 ? nullptr : static_cast<Stream*>(handle);
}

Graph* capture_of(void* handle) {
    Stream* stream = stream_of(handle);
    return stream ? stream->capture : nullptr;
}

}  // namespace

void stand_in::log_work(const std::string& name, void* handle) {
    Lock lock(mutex());
    Stream* stream = stream_of(handle);
    if (Graph* capture = capture_of(handle)) {
        if (stream != capture->origin) capture->unjoined.insert(stream);
        log("node", name);
        return;
    }
    // It is done once, now, and in no replay.
    if (num_captures) log_violation("work on a stream that is not captured, during a capture: " + name);
    log("launch", name);
}

bool stand_in::is_capturing(void* handle) { return capture_of(handle) != nullptr; }

// The caching allocator switches to the relaxed mode around its cudaMalloc. Other threads may do as they like, as
// captures are begun in the mode thread_local.
bool stand_in::breaks_capture(const char* call) {
    if (captures_of_this_thread == 0 || capture_mode == cudaStreamCaptureModeRelaxed) return false;
    log_violation(std::string(call) + " during a capture");
    return true;
}

cudaError_t stand_in::synchronize(const char* call, bool is_of_capture) {
    log("sync", call);
    if (is_of_capture) log_violation(std::string(call) + " of what is captured");
    return is_of_capture || breaks_capture(call) ? fail(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

// -- streams and events --

EXPORTED cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    *stream = reinterpret_cast<cudaStream_t>(new Stream);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
EXPORTED cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
    return cudaStreamCreate(stream);
}
EXPORTED cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
    *priority = 0;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaDeviceSynchronize() { return stand_in::synchronize("cudaDeviceSynchronize", false); }
EXPORTED cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return stand_in::synchronize("cudaStreamSynchronize", stand_in::is_capturing(stream));
}
EXPORTED cudaError_t cudaStreamQuery(cudaStream_t stream) {
    if (!stand_in::is_capturing(stream)) return cudaSuccess;
    stand_in::log_violation("cudaStreamQuery of a captured stream");
    return fail(cudaErrorStreamCaptureUnsupported);
}
EXPORTED cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = reinterpret_cast<cudaEvent_t>(new Event);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
EXPORTED cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete reinterpret_cast<Event*>(event);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
    Lock lock(mutex());
    *reinterpret_cast<Event*>(handle) = {true, stream_of(stream), capture_of(stream)};
    return cudaSuccess;
}
EXPORTED cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
    return cudaEventRecord(event, stream);
}
EXPORTED cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (reinterpret_cast<Event*>(event)->capture) {
        stand_in::log_violation("cudaEventQuery of a captured event");
        return fail(cudaErrorCapturedEvent);
    }
    return breaks_capture("cudaEventQuery") ? fail(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
EXPORTED cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return stand_in::synchronize("cudaEventSynchronize", reinterpret_cast<Event*>(event)->capture != nullptr);
}
EXPORTED cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
    *milliseconds = 1;
    return cudaSuccess;
}

// A stream that waits for an event of a capture joins it, and has to be waited for before its end.
EXPORTED cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned) {
    Lock lock(mutex());
    auto* event = reinterpret_cast<Event*>(event_handle);
    Stream* stream = stream_of(handle);
    Graph* capture = capture_of(handle);
    if (capture && event->is_recorded && event->capture != capture) {
        stand_in::log_violation("a captured stream waits for an event from outside the capture");
        return fail(cudaErrorStreamCaptureIsolation);
    }
    if (capture) {
        capture->unjoined.erase(event->stream);
    } else if (event->capture && event->capture == event->stream->capture) {
        if (!stream) {
            stand_in::log_violation("the default stream waits for an event of a capture");
            return fail(cudaErrorStreamCaptureImplicit);
        }
        stream->capture = event->capture;
        event->capture->streams.insert(stream);
        event->capture->unjoined.insert(stream);
    }
    return cudaSuccess;
}

// -- graphs --

EXPORTED cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    Lock lock(mutex());
    Stream* stream = stream_of(handle);
    if (!stream) {
        stand_in::log_violation("capture of the default stream");
        return fail(cudaErrorStreamCaptureUnsupported);
    }
    if (mode == cudaStreamCaptureModeGlobal) {
        stand_in::log_violation("a capture in global mode, which any thread may break");
    }
    stream->capture = new Graph{++last_id, stream, {stream}, {}};
    num_captures++;
    captures_of_this_thread++;
    stand_in::log("capture", std::to_string(last_id));
    return cudaSuccess;
}
EXPORTED cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t, const cudaGraphNode_t*,
                                                   const cudaGraphEdgeData*, size_t, cudaStreamCaptureMode mode) {
    return cudaStreamBeginCapture(stream, mode);
}
EXPORTED cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* result) {
    Lock lock(mutex());
    Graph* graph = capture_of(handle);
    bool is_unjoined = !graph->unjoined.empty();
    for (Stream* stream : graph->streams) stream->capture = nullptr;
    num_captures--;
    captures_of_this_thread--;
    stand_in::log("captured", std::to_string(graph->id));
    *result = reinterpret_cast<cudaGraph_t>(graph);
    if (!is_unjoined) return cudaSuccess;
    stand_in::log_violation("a capture ends before it has waited for another of its streams");
    return fail(cudaErrorStreamCaptureUnjoined);
}
EXPORTED cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = stand_in::is_capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                              unsigned long long* id, cudaGraph_t* graph,
                                              const cudaGraphNode_t** dependencies, const cudaGraphEdgeData** edges,
                                              size_t* num) {
    cudaStreamIsCapturing(stream, status);
    if (Graph* capture = capture_of(stream)) {
        if (id) *id = capture->id;
        if (graph) *graph = reinterpret_cast<cudaGraph_t>(capture);
        if (dependencies) *dependencies = nullptr;
        if (edges) *edges = nullptr;
        if (num) *num = 0;
    }
    return cudaSuccess;
}
EXPORTED cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    std::swap(capture_mode, *mode);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* instance, cudaGraph_t graph, unsigned long long) {
    *instance = reinterpret_cast<cudaGraphExec_t>(graph);  // graphs live as long as the process
    return cudaSuccess;
}
EXPORTED cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t*, size_t* num) {
    *num = 1;  // requested to warn of a graph without any
    return cudaSuccess;
}
EXPORTED cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t, cudaGraphNode_t*, cudaGraphEdgeData*, size_t* num) {
    *num = 0;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaGraphLaunch(cudaGraphExec_t instance, cudaStream_t) {
    if (num_captures) stand_in::log_violation("a replay during a capture");
    stand_in::log("replay", std::to_string(reinterpret_cast<Graph*>(instance)->id));
    return cudaSuccess;
}
