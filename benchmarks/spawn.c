/* spawn.c - how fast this machine can start, run and reap a tiny program: the limit nobody can pass.
 *
 *   cc -O2 -o spawn spawn.c -lpthread
 *   ./spawn THREADS COUNT PROGRAM
 *
 * Each thread starts PROGRAM, without arguments, by vfork and execve, its output on /dev/null, and waits for it, COUNT times in
 * all. Prints one number: processes per second. Exit status 1 when any of them could not be run.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 64

extern char **environ;
static char *target[] = {NULL, NULL};
static int nullfd;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void one(void) {
    pid_t pid = vfork();
    if (pid == 0) {
        dup2(nullfd, 1);
        dup2(nullfd, 2);
        execve(target[0], target, environ);
        _exit(127);
    }
    int status;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    if (pid < 0 || status != 0) {
        fprintf(stderr, "spawn: %s could not be run\n", target[0]);
        exit(1);
    }
}

static void *loop(void *count) {
    for (long i = 0; i < (long)count; i++) one();
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int threads = atoi(argv[1]);
    long each = atol(argv[2]) / (threads > 0 ? threads : 1);
    if (threads < 1 || threads > THREADS_MAX || each < 1) return 2;
    target[0] = argv[3];
    nullfd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    pthread_t thread[THREADS_MAX];
    double began = now();
    for (int i = 0; i < threads; i++)
        if (pthread_create(&thread[i], NULL, loop, (void *)each)) return 1;
    for (int i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    printf("%.1f\n", each * threads / (now() - began));
    return 0;
}
