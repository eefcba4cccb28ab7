// The driver (libcuda.so.1), as far as Triton and torch's launcher of its kernels use it. They are compiled in earnest,
// down to the device's code, which is "loaded" as its name.

#include <cstddef>
#include <cstring>
#include <dlfcn.h>

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define ACCEPT(name) \
    EXPORTED int name() { return 0; }

static int any;  // for handles that nobody looks into

static int log_work(const char* name, void* stream) {
    using Log = void (*)(const char*, void*);
    static auto log = reinterpret_cast<Log>(dlsym(RTLD_DEFAULT, "stand_in_work"));  // runtime.cpp's, preloaded
    if (log) log(name, stream);
    return 0;
}

ACCEPT(cuInit)
ACCEPT(cuCtxSetCurrent)
ACCEPT(cuCtxPushCurrent_v2)
ACCEPT(cuCtxPopCurrent_v2)
ACCEPT(cuCtxSetLimit)
ACCEPT(cuModuleUnload)
ACCEPT(cuFuncSetAttribute)
ACCEPT(cuFuncSetCacheConfig)
ACCEPT(cuTensorMapEncodeTiled)
ACCEPT(cuTensorMapEncodeIm2col)

EXPORTED int cuGetErrorString(int, const char** text) { return *text = "an error of the CUDA stand-in", 0; }
EXPORTED int cuGetErrorName(int code, const char** text) { return cuGetErrorString(code, text); }
EXPORTED int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
EXPORTED int cuDeviceGetCount(int* num) { return *num = 1, 0; }
EXPORTED int cuDeviceGet(int* device, int index) { return *device = index, 0; }
EXPORTED int cuCtxGetDevice(int* device) { return *device = 0; }
EXPORTED int cuCtxGetLimit(size_t* limit, int) { return *limit = 0; }
EXPORTED int cuCtxGetCurrent(void** context) { return *context = &any, 0; }
EXPORTED int cuDevicePrimaryCtxRetain(void** context, int) { return cuCtxGetCurrent(context); }
EXPORTED int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* is_active) { return *flags = 0, *is_active = 1, 0; }
EXPORTED int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {  // by CUdevice_attribute; those of an H200
        case 8: *value = 48 << 10; break;    // shared memory of a block
        case 10: *value = 32; break;         // threads of a warp
        case 12: *value = 65536; break;      // registers of a block
        case 13: *value = 1980000; break;    // kHz
        case 16: *value = 132; break;        // multiprocessors
        case 36: *value = 3201000; break;    // kHz of the memory
        case 37: *value = 6144; break;       // bits of its bus
        case 75: *value = 9; break;          // compute capability, major
        case 76: *value = 0; break;          // minor
        case 97: *value = 227 << 10; break;  // shared memory of a block that requests more
        default: *value = 1;
    }
    return 0;
}
EXPORTED int cuModuleLoad(void** module, const char*) { return *module = &any, 0; }
EXPORTED int cuModuleLoadData(void** module, const void*) { return *module = &any, 0; }
EXPORTED int cuModuleLoadDataEx(void** module, const void*) { return *module = &any, 0; }
EXPORTED int cuModuleGetFunction(void** function, void*, const char* name) { return *function = strdup(name), 0; }
EXPORTED int cuFuncGetAttribute(int* value, int attribute, void*) {
    constexpr int max_threads = 0, num_registers = 4;
    return *value = attribute == max_threads ? 1024 : attribute == num_registers ? 32 : 0, 0;
}
EXPORTED int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* num) { return *num = 4, 0; }
EXPORTED int cuOccupancyMaxActiveClusters(int* num) { return *num = 4, 0; }
EXPORTED int cuPointerGetAttribute(void* value, int attribute, void* pointer) {
    constexpr int device_pointer = 3;
    if (attribute == device_pointer) *static_cast<void**>(value) = pointer;
    return 0;
}
EXPORTED int cuLaunchKernel(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                            void* stream) {
    return log_work(static_cast<char*>(function), stream);
}
EXPORTED int cuLaunchCooperativeKernel(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                       unsigned, void* stream) {
    return log_work(static_cast<char*>(function), stream);
}
struct LaunchConfiguration {
    unsigned grid[3], block[3], shared_bytes;
    void* stream;
};
EXPORTED int cuLaunchKernelEx(const LaunchConfiguration* configuration, void* function) {
    return log_work(static_cast<char*>(function), configuration->stream);
}
