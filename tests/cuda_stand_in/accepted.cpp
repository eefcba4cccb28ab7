// Calls that have nothing to do here but succeed, whatever their arguments are; the C convention of calls leaves them
// to the caller. No header is included: their declarations there have other types.

#define ACCEPT(name) \
    extern "C" __attribute__((visibility("default"))) int name() { return 0; }

ACCEPT(__cudaRegisterFatBinaryEnd)
ACCEPT(__cudaUnregisterFatBinary)
ACCEPT(__cudaRegisterVar)
ACCEPT(cudaDeviceEnablePeerAccess)
ACCEPT(cudaFuncSetAttribute)
ACCEPT(cudaKernelSetAttributeForDevice)
ACCEPT(cudaHostRegister)
ACCEPT(cudaHostUnregister)
ACCEPT(cudaMemcpyToSymbol)
ACCEPT(cudaStreamDestroy)
ACCEPT(cudaStreamUpdateCaptureDependencies)
ACCEPT(cudaGraphDestroy)
ACCEPT(cudaGraphExecDestroy)
ACCEPT(cudaGraphRetainUserObject)
ACCEPT(cudaUserObjectRelease)
ACCEPT(cudaProfilerStart)
ACCEPT(cudaProfilerStop)

ACCEPT(cublasDestroy_v2)
ACCEPT(cublasSetWorkspace_v2)
ACCEPT(cublasSetMathMode)
ACCEPT(cublasSetPointerMode_v2)
ACCEPT(cublasLtMatmulDescDestroy)
ACCEPT(cublasLtMatmulDescSetAttribute)
ACCEPT(cublasLtMatmulPreferenceDestroy)
ACCEPT(cublasLtMatmulPreferenceSetAttribute)
ACCEPT(cublasLtMatrixLayoutDestroy)
ACCEPT(cublasLtMatrixLayoutSetAttribute)

ACCEPT(ncclCommDestroy)
ACCEPT(ncclCommAbort)
ACCEPT(ncclCommFinalize)
ACCEPT(ncclCommRegister)
ACCEPT(ncclCommDeregister)
ACCEPT(ncclGroupStart)
ACCEPT(ncclGroupEnd)
