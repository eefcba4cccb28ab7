// Devices and kernels, which do nothing but be logged by their names.

#include "stand_in.h"

#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

using stand_in::fail;

namespace {

struct LaunchConfiguration {
    dim3 grid, block;
    size_t shared_bytes;
    void* stream;
};

// Kernels by the address of the host's function that stands for them.
std::map<const void*, std::string>& kernel_names() { return stand_in::immortal<std::map<const void*, std::string>>(); }

thread_local int device = 0;
thread_local cudaError_t last_error = cudaSuccess;
thread_local std::vector<LaunchConfiguration> configurations;

cudaError_t launch(const void* function, dim3 grid, dim3 block, void* stream) {
    std::string name = "a kernel without a name";
    {
        stand_in::Lock lock(stand_in::mutex());
        if (auto found = kernel_names().find(function); found != kernel_names().end()) name = found->second;
    }
    if (char* readable = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, nullptr)) {
        name = readable;
        free(readable);
    }
    bool is_valid = grid.x && grid.y && grid.z && block.x && block.y && block.z && grid.y <= 65535 && grid.z <= 65535 &&
                    static_cast<size_t>(block.x) * block.y * block.z <= 1024;
    if (!is_valid) {
        stand_in::log_violation("launch configuration out of range: " + name);
        return fail(cudaErrorInvalidConfiguration);
    }
    stand_in::log_work(name, stream);
    stand_in::forget_received();
    return cudaSuccess;
}

int num_devices() {
    const char* text = getenv("CUDA_STAND_IN_DEVICES");
    return text ? atoi(text) : 1;
}

}  // namespace

cudaError_t stand_in::fail(cudaError_t error) {
    last_error = error;
    return error;
}

// -- kernels: what compiled code calls to make them known, and to launch them by <<<...>>> --

EXPORTED void** __cudaRegisterFatBinary(void*) {
    static void* handle;
    return &handle;
}
EXPORTED void __cudaRegisterFunction(void**, const char* host_function, char*, const char* name, int, void*, void*,
                                     void*, void*, int*) {
    stand_in::Lock lock(stand_in::mutex());
    kernel_names()[host_function] = name;
}
EXPORTED char __cudaInitModule(void**) { return 1; }
EXPORTED unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st* stream) {
    configurations.push_back({grid, block, shared_bytes, stream});
    return 0;
}
EXPORTED cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream) {
    LaunchConfiguration last = configurations.back();
    configurations.pop_back();
    *grid = last.grid;
    *block = last.block;
    *shared_bytes = last.shared_bytes;
    *static_cast<void**>(stream) = last.stream;
    return cudaSuccess;
}
EXPORTED cudaError_t __cudaGetKernel(const void** kernel, const void* function) {
    *kernel = function;
    return cudaSuccess;
}
EXPORTED cudaError_t __cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void**, size_t, void* stream) {
    return launch(kernel, grid, block, stream);
}
EXPORTED cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void**, size_t,
                                      cudaStream_t stream) {
    return launch(function, grid, block, stream);
}
EXPORTED cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void**) {
    return launch(function, config->gridDim, config->blockDim, config->stream);
}
EXPORTED cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
    stand_in::log_work("host function", stream);
    if (!stand_in::is_capturing(stream)) function(argument);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
    *attributes = {};
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 32;
    attributes->binaryVersion = attributes->ptxVersion = 90;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* num, const void*, int, size_t,
                                                                            unsigned) {
    *num = 2;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* num, const void*, int, size_t) {
    *num = 2;
    return cudaSuccess;
}

// -- devices: H200s as far as torch looks --

EXPORTED cudaError_t cudaGetDeviceCount(int* num) {
    *num = num_devices();
    return cudaSuccess;
}
EXPORTED cudaError_t cudaGetDevice(int* index) {
    *index = device;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaSetDevice(int index) {
    if (index < 0 || index >= num_devices()) return fail(cudaErrorInvalidDevice);
    device = index;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index) {
    *properties = {};
    strcpy(properties->name, "CUDA stand-in");
    memset(&properties->uuid, index + 1, sizeof properties->uuid);
    properties->major = 9;
    properties->totalGlobalMem = 141ull << 30;
    properties->l2CacheSize = 50 << 20;
    properties->memoryBusWidth = 6144;
    properties->multiProcessorCount = 132;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
    properties->maxThreadsDim[2] = 64;
    properties->maxGridSize[0] = 2147483647;
    properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->maxBlocksPerMultiProcessor = 32;
    properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
    properties->sharedMemPerBlock = 48 << 10;
    properties->sharedMemPerBlockOptin = 227 << 10;
    properties->sharedMemPerMultiprocessor = 228 << 10;
    properties->textureAlignment = 512;
    properties->unifiedAddressing = properties->concurrentKernels = 1;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index) {
    cudaDeviceProp properties;
    cudaGetDeviceProperties(&properties, index);
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
        case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
        case cudaDevAttrWarpSize: *value = properties.warpSize; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = properties.maxThreadsPerBlock; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = properties.maxThreadsPerMultiProcessor; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = properties.sharedMemPerBlock; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = properties.sharedMemPerBlockOptin; break;
        default: *value = 1;
    }
    return cudaSuccess;
}
EXPORTED cudaError_t cudaDriverGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
    *can = 0;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int index) {
    snprintf(text, size, "0000:%02x:00.0", index + 1);
    return cudaSuccess;
}
EXPORTED cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return cudaSuccess;
}
EXPORTED cudaError_t cudaGetLastError() {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
EXPORTED cudaError_t cudaPeekAtLastError() { return last_error; }
EXPORTED const char* cudaGetErrorName(cudaError_t) { return "an error of the CUDA stand-in"; }
EXPORTED const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "no error";
        case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
        case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
        case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
        case cudaErrorCapturedEvent: return "operation not permitted on an event last recorded in a capturing stream";
        case cudaErrorInvalidConfiguration: return "invalid configuration argument";
        case cudaErrorInvalidDevice: return "invalid device ordinal";
        default: return "an error of the CUDA stand-in";
    }
}

// Functions of the driver that torch looks up by name, most of which only have to exist.
static int succeed(...) { return 0; }
static int get_primary_context_state(int, unsigned* flags, int* is_active) {
    *flags = 0;
    *is_active = 1;
    return 0;
}
static int get_current_context(void** context) {
    static int any;
    *context = &any;
    return 0;
}
EXPORTED cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                                      cudaDriverEntryPointQueryResult* result) {
    std::string wanted = name;
    *function = wanted == "cuDevicePrimaryCtxGetState" ? reinterpret_cast<void*>(get_primary_context_state)
                : wanted == "cuCtxGetCurrent"          ? reinterpret_cast<void*>(get_current_context)
                                                       : reinterpret_cast<void*>(succeed);
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
