// The log, which stand_in.py reads.

#include "stand_in.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

std::recursive_mutex& stand_in::mutex() { return immortal<std::recursive_mutex>(); }

void stand_in::log(const char* kind, const std::string& text) {
    const char* folder = getenv("CUDA_STAND_IN_LOG");
    if (!folder) return;
    Lock lock(mutex());
    static int file = -1;
    static pid_t owner = 0;
    if (owner != getpid()) {  // the first line, or the first after a fork
        owner = getpid();
        file = open((std::string(folder) + "/" + std::to_string(owner) + ".log").c_str(),
                    O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    }
    std::string line = std::string(kind) + " " + text + "\n";
    if (write(file, line.data(), line.size()) < 0) perror("CUDA stand-in: log");
}

void stand_in::log_violation(const std::string& text) {
    fprintf(stderr, "CUDA stand-in: violation: %s\n", text.c_str());
    log("violation", text);
}

// For what Python stands in for (child/sitecustomize.py): work that C++ does not see, and the marks of steps.
EXPORTED void stand_in_log(const char* kind, const char* text) { stand_in::log(kind, text); }
EXPORTED void stand_in_work(const char* name, void* stream) { stand_in::log_work(name, stream); }
