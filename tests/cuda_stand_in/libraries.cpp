// cuBLAS and NCCL. Matrix products and sums are logged and not done. From other ranks a rank receives what it would
// send itself, which is the same for what equal ranks compare.

#include "stand_in.h"

#include <cstdlib>
#include <cstring>
#include <random>

// -- cuBLAS: a handle has the stream that its products go to --

struct Handle {
    void* stream;
};

EXPORTED int cublasCreate_v2(Handle** handle) {
    *handle = new Handle{nullptr};
    return 0;
}
EXPORTED int cublasSetStream_v2(Handle* handle, void* stream) {
    handle->stream = stream;
    return 0;
}
EXPORTED int cublasGetMathMode(Handle*, int* mode) { return *mode = 0; }
EXPORTED int cublasGetPointerMode_v2(Handle*, int* mode) { return *mode = 0; }

#define PRODUCT(name)                              \
    EXPORTED int name(Handle* handle) {            \
        stand_in::log_work(#name, handle->stream); \
        return 0;                                  \
    }
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasDgemm_v2)
PRODUCT(cublasSgemmEx)
PRODUCT(cublasGemmEx)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemv_v2)
PRODUCT(cublasDgemv_v2)
PRODUCT(cublasSdot_v2)
PRODUCT(cublasDdot_v2)
PRODUCT(cublasDotEx)

static int create(void** object) {
    *object = calloc(1, 1024);
    return 0;
}
EXPORTED size_t cublasLtGetVersion() { return 130000; }
EXPORTED int cublasLtMatmulDescCreate(void** object) { return create(object); }
EXPORTED int cublasLtMatmulPreferenceCreate(void** object) { return create(object); }
EXPORTED int cublasLtMatrixLayoutCreate(void** object) { return create(object); }
EXPORTED int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void* results,
                                            int* num) {
    constexpr size_t size_of_result = 88;
    memset(results, 0, size_of_result);
    *num = 1;
    return 0;
}
EXPORTED int cublasLtMatmul(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*,
                            void*, void*, void*, const void*, void*, size_t, void* stream) {
    stand_in::log_work("cublasLtMatmul", stream);
    return 0;
}

// -- NCCL --

struct UniqueId {
    char bytes[128];
};
struct Communicator {
    int num;
};

EXPORTED int ncclGetUniqueId(UniqueId* id) {
    std::random_device random;
    for (char& byte : id->bytes) byte = static_cast<char>(random());
    return 0;
}
EXPORTED int ncclCommInitRank(Communicator** communicator, int num, UniqueId, int) {
    *communicator = new Communicator{num};
    return 0;
}
EXPORTED int ncclCommInitRankConfig(Communicator** communicator, int num, UniqueId id, int rank, void*) {
    return ncclCommInitRank(communicator, num, id, rank);
}
EXPORTED int ncclCommInitRankScalable(Communicator** communicator, int num, int rank, int, UniqueId* ids, void*) {
    return ncclCommInitRank(communicator, num, *ids, rank);
}
EXPORTED int ncclCommGetAsyncError(Communicator*, int* error) { return *error = 0; }

// Bytes of a number, by ncclDataType_t: int8, uint8, int32, uint32, int64, uint64, float16, float32, float64, bfloat16,
// and two kinds of float8.
static size_t size_of(int type) {
    constexpr size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return sizes[type];
}

static int send(const char* name, const void* from, void* to, size_t bytes, int times, void* stream) {
    stand_in::log_work(name, stream);
    if (stand_in::is_capturing(stream)) return 0;
    for (int index = 0; index < times; index++) memmove(static_cast<char*>(to) + index * bytes, from, bytes);
    stand_in::mark_received(to, times * bytes);
    return 0;
}
EXPORTED int ncclBroadcast(const void* from, void* to, size_t num, int type, int, Communicator*, void* stream) {
    return send("ncclBroadcast", from, to, num * size_of(type), 1, stream);
}
EXPORTED int ncclAllGather(const void* from, void* to, size_t num, int type, Communicator* communicator,
                           void* stream) {
    return send("ncclAllGather", from, to, num * size_of(type), communicator->num, stream);
}

#define SUM(name)                                                                          \
    EXPORTED int name(const void*, void*, size_t, int, int, Communicator*, void* stream) { \
        stand_in::log_work(#name, stream);                                                 \
        stand_in::forget_received();                                                       \
        return 0;                                                                          \
    }
SUM(ncclAllReduce)
SUM(ncclReduceScatter)
