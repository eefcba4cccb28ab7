// What the files of the stand-in share: the log of the calls to the device, and the rules of capture.
#pragma once

#include <cuda_runtime_api.h>

#include <mutex>
#include <string>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace stand_in {

// Append the line "KIND TEXT" to $CUDA_STAND_IN_LOG/<process id>.log; do nothing without that variable. Each line is
// written at once, so that a process that is killed, or ends by _exit, leaves what it did.
void log(const char* kind, const std::string& text);

// Log a broken rule of CUDA; on stderr too, for whoever reads no log.
void log_violation(const std::string& text);

// Log work that `stream` would do: a node of the graph that the stream is captured into, or a launch.
void log_work(const std::string& name, void* stream);

// True if what the stream does is captured, so that nothing is to be done now.
bool is_capturing(void* stream);

// True, and a violation, if `call` is one that CUDA rejects while this thread captures.
bool breaks_capture(const char* call);

// Log a wait of the host for the device, and return its error, which there is during a capture.
cudaError_t synchronize(const char* call, bool is_of_capture);

// Return `error`, and keep it for cudaGetLastError.
cudaError_t fail(cudaError_t error);

// Let the host read what lies there, in place of zeros, until the next kernel, which may write there.
void mark_received(const void* pointer, size_t size);
void forget_received();

// One lock for all that threads share here.
using Lock = std::lock_guard<std::recursive_mutex>;
std::recursive_mutex& mutex();

// What libraries request while their own static objects are made or destroyed must be there already, and still.
template <typename T>
T& immortal() {
    static T* object = new T;
    return *object;
}

}  // namespace stand_in
