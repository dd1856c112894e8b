/*
 * Runs a fuzz target over files without libFuzzer: each argument is an input or a folder of them.
 * The name is printed before the run, so that the last line names the one that crashed.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

static bool run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    uint8_t *bytes;
    size_t got;

    if (!file || fstat(fileno(file), &info) != 0) {
        printf("replay: %s cannot be read\n", path);
        return false;
    }
    bytes = malloc((size_t)info.st_size + 1); /* as long as the input: reads beyond it are found */
    got = bytes ? fread(bytes, 1, (size_t)info.st_size, file) : 0;
    fclose(file);
    if (!bytes || got != (size_t)info.st_size) {
        free(bytes);
        return false;
    }
    printf("%s\n", path);
    fflush(stdout);
    bytes = realloc(bytes, got ? got : 1);
    LLVMFuzzerTestOneInput(bytes, got);
    free(bytes);
    return true;
}

/* Number of inputs run; -1: one could not be read. */
static int run_folder(const char *path)
{
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort);
    int runs = 0;

    for (int i = 0; i < n; i++) {
        char full[4096];

        snprintf(full, sizeof(full), "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && runs >= 0) {
            runs = run_file(full) ? runs + 1 : -1;
        }
        free(names[i]);
    }
    if (n >= 0) {
        free(names);
    }
    return n < 0 ? -1 : runs;
}

int main(int argc, char **argv)
{
    int total = 0;

    for (int i = 1; i < argc; i++) {
        struct stat info;
        bool folder = stat(argv[i], &info) == 0 && S_ISDIR(info.st_mode);
        int runs = folder ? run_folder(argv[i]) : run_file(argv[i]) ? 1 : -1;

        if (runs < 0) {
            return 1;
        }
        total += runs;
    }
    printf("%d inputs\n", total);
    return total == 0; /* a corpus that is not there must not pass */
}
