// postern-task ARGUMENT…: executes the words of POSTERN_TASK_WORD_0, _1, …, followed by its own
// arguments. The Slurm plugin can replace a task's program, but put nothing before its words.
#include "task.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { kFatal = 255, kMostWords = 32 };

int main(int argc, char** argv) {
  char** words = calloc(kMostWords + (size_t)argc + 1, sizeof *words);
  int count = 0;
  while (words != NULL && count < kMostWords) {
    char name[sizeof POSTERN_TASK_WORD + 16];
    snprintf(name, sizeof name, POSTERN_TASK_WORD "%d", count);
    const char* word = getenv(name);
    if (word == NULL) {
      break;
    }
    words[count++] = strdup(word);
    unsetenv(name);
  }
  if (words == NULL || count == 0) {
    fputs("FATAL:   postern-task is started by Slurm's plugin of postern alone\n", stderr);
    return kFatal;
  }
  for (int i = 1; i < argc; ++i) {
    words[count + i - 1] = argv[i];
  }
  execvp(words[0], words);
  fprintf(stderr, "FATAL:   executing %s: %s; install postern on this node\n", words[0],
          strerror(errno));
  return kFatal;
}
