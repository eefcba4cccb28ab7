// Memory, which is the host's. Copies to the device and on it are real. What kernels would have made of that is not
// there, so the host reads zeros: finite numbers, and the same each time. But for what other ranks have sent: DDP
// compares shapes.

#include "stand_in.h"

#include <cstdlib>
#include <cstring>
#include <map>

using stand_in::breaks_capture;
using stand_in::fail;
using stand_in::immortal;
using stand_in::Lock;
using stand_in::mutex;

namespace {

// First byte -> size.
using Blocks = std::map<const char*, size_t>;
struct DeviceBlocks : Blocks {};
struct PinnedBlocks : Blocks {};
struct ReceivedBlocks : Blocks {};

bool contains(const Blocks& blocks, const void* pointer) {
    Lock lock(mutex());
    auto next = blocks.upper_bound(static_cast<const char*>(pointer));
    if (next == blocks.begin()) return false;
    auto [first, size] = *--next;
    return static_cast<const char*>(pointer) < first + size;
}

const char* kind_of_memory(const void* pointer) {
    if (contains(immortal<DeviceBlocks>(), pointer)) return "device";
    return contains(immortal<PinnedBlocks>(), pointer) ? "pinned" : "pageable";
}

// Zeros, by which a run is the same each time.
void* allocate(Blocks& blocks, size_t size) {
    constexpr size_t page = 4096;
    void* pointer = aligned_alloc(page, (size + page - 1) / page * page);
    memset(pointer, 0, size);
    Lock lock(mutex());
    blocks[static_cast<char*>(pointer)] = size;
    return pointer;
}

void release(Blocks& blocks, void* pointer) {
    {
        Lock lock(mutex());
        blocks.erase(static_cast<char*>(pointer));
    }
    free(pointer);
}

void copy(void* to, const void* from, size_t size) {
    bool is_from_device = contains(immortal<DeviceBlocks>(), from);
    bool is_to_device = contains(immortal<DeviceBlocks>(), to);
    bool is_received = contains(immortal<ReceivedBlocks>(), from);
    if (is_from_device && !is_to_device && !is_received) {
        memset(to, 0, size);
    } else {
        memcpy(to, from, size);
    }
    if (is_received && is_to_device) stand_in::mark_received(to, size);
}

}  // namespace

void stand_in::mark_received(const void* pointer, size_t size) {
    Lock lock(mutex());
    immortal<ReceivedBlocks>()[static_cast<const char*>(pointer)] = size;
}

void stand_in::forget_received() {
    Lock lock(mutex());
    immortal<ReceivedBlocks>().clear();
}

EXPORTED cudaError_t cudaMalloc(void** pointer, size_t size) {
    stand_in::log("allocation", "cudaMalloc " + std::to_string(size));
    if (breaks_capture("cudaMalloc")) return fail(cudaErrorStreamCaptureUnsupported);
    *pointer = allocate(immortal<DeviceBlocks>(), size);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaFree(void* pointer) {
    if (!pointer) return cudaSuccess;  // requested to start the device
    if (cudaError_t error = stand_in::synchronize("cudaFree", false)) return error;
    release(immortal<DeviceBlocks>(), pointer);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaHostAlloc(void** pointer, size_t size, unsigned) {
    stand_in::log("allocation", "cudaHostAlloc " + std::to_string(size));
    if (breaks_capture("cudaHostAlloc")) return fail(cudaErrorStreamCaptureUnsupported);
    *pointer = allocate(immortal<PinnedBlocks>(), size);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaFreeHost(void* pointer) {
    release(immortal<PinnedBlocks>(), pointer);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
    *attributes = {};
    attributes->type = contains(immortal<DeviceBlocks>(), pointer)   ? cudaMemoryTypeDevice
                       : contains(immortal<PinnedBlocks>(), pointer) ? cudaMemoryTypeHost
                                                                     : cudaMemoryTypeUnregistered;
    cudaGetDevice(&attributes->device);
    attributes->devicePointer = attributes->hostPointer = const_cast<void*>(pointer);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
    *total = 141ull << 30;
    *free_bytes = 140ull << 30;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
    std::string name = std::string("memcpy ") + kind_of_memory(from) + " to " + kind_of_memory(to);
    stand_in::log_work(name, stream);
    if (!stand_in::is_capturing(stream)) {
        copy(to, from, size);
    } else if (name.find("pageable") != std::string::npos) {
        stand_in::log_violation(name + " during a capture");
        return fail(cudaErrorStreamCaptureUnsupported);
    }
    return cudaSuccess;
}
EXPORTED cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, cudaStream_t stream) {
    return cudaMemcpyAsync(to, from, size, cudaMemcpyDefault, stream);
}
EXPORTED cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
    if (cudaError_t error = stand_in::synchronize("cudaMemcpy", false)) return error;
    stand_in::log_work("memcpy synchronous", nullptr);
    copy(to, from, size);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaMemset(void* to, int value, size_t size) {
    if (breaks_capture("cudaMemset")) return fail(cudaErrorStreamCaptureUnsupported);
    stand_in::log_work("memset", nullptr);
    memset(to, value, size);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t stream) {
    stand_in::log_work("memset", stream);
    if (!stand_in::is_capturing(stream)) memset(to, value, size);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaGetSymbolAddress(void** pointer, const void*) {
    static char memory[1 << 20];
    *pointer = memory;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
    static int any;
    *pool = reinterpret_cast<cudaMemPool_t>(&any);
    return cudaSuccess;
}
