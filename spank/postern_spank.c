// Slurm's plugin of postern: srun --container-image=IMAGE starts each task of a step by
// `postern exec IMAGE`, with the options that users of other container plugins know. spank(8).
//
// What runs where. As root, in slurmstepd, the plugin keeps the texts of the options and nothing
// else: it opens no file, reads no image, starts nothing and parses nothing. As the user, in the
// process of each task and right before it is executed, the words of `postern exec` go to the
// task's environment and the task's program becomes postern-task, which executes postern with them.
// Whatever a user writes in an option is so used with the user's rights alone, as if the batch
// script had said it.
#include <errno.h>
#include <slurm/spank.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "task.h"

SPANK_PLUGIN(postern, 1)

// Of a callback: Slurm goes on after a positive error, spank(8).
enum { kFailed = -1 };

enum {
  kImage,
  kMounts,
  kWorkdir,
  kEnv,
  kRemapRoot,
  kNoRemapRoot,
  kMountHome,
  kNoMountHome,
  kWritable,
  kReadonly,
  kEntrypoint,
  kNoEntrypoint,
  kOptionCount
};

// The texts of the options; flags have an empty one. Of this process, for its one job step.
static char* given[kOptionCount];

static int keep(int which, const char* text, int remote) {
  (void)remote;
  char* copy = strdup(text != NULL ? text : "");
  if (copy == NULL) {
    return kFailed;
  }
  free(given[which]);
  given[which] = copy;
  return ESPANK_SUCCESS;
}

static struct spank_option options[] = {
    {"container-image", "IMAGE", "run each task in this container image (a file, docker://…)", 1,
     kImage, keep},
    {"container-mounts", "SRC:DST[:FLAGS][,…]", "bind directories and files into the container", 1,
     kMounts, keep},
    {"container-workdir", "DIR", "initial directory inside", 1, kWorkdir, keep},
    {"container-env", "NAMES", "variables of the job that override the image's", 1, kEnv, keep},
    {"container-remap-root", NULL, "appear as root inside", 0, kRemapRoot, keep},
    {"no-container-remap-root", NULL, "do not appear as root inside (the default)", 0, kNoRemapRoot,
     keep},
    {"container-mount-home", NULL, "mount the home directory (the default)", 0, kMountHome, keep},
    {"no-container-mount-home", NULL, "do not mount the home directory", 0, kNoMountHome, keep},
    {"container-writable", NULL, "the root seems writable; changes are lost at the end", 0,
     kWritable, keep},
    {"container-readonly", NULL, "the root is read-only (the default)", 0, kReadonly, keep},
    {"container-entrypoint", NULL, "run the image's runscript with the task's words", 0,
     kEntrypoint, keep},
    {"no-container-entrypoint", NULL, "do not run the image's runscript (the default)", 0,
     kNoEntrypoint, keep},
    SPANK_OPTIONS_TABLE_END};

int slurm_spank_init(spank_t spank, int argc, char** argv) {
  (void)argc;
  (void)argv;
  for (struct spank_option* option = options; option->name != NULL; ++option) {
    if (spank_option_register(spank, option) != ESPANK_SUCCESS) {
      slurm_error("postern: --%s cannot be registered", option->name);
      return kFailed;
    }
  }
  return ESPANK_SUCCESS;
}

// In srun: a mistake is said before the job waits in the queue.
int slurm_spank_init_post_opt(spank_t spank, int argc, char** argv) {
  (void)argc;
  (void)argv;
  static const int kPairs[][2] = {{kRemapRoot, kNoRemapRoot},
                                  {kMountHome, kNoMountHome},
                                  {kWritable, kReadonly},
                                  {kEntrypoint, kNoEntrypoint}};
  if (spank_remote(spank)) {
    return ESPANK_SUCCESS;
  }
  for (int i = 0; i < kOptionCount; ++i) {
    if (i != kImage && given[i] != NULL && given[kImage] == NULL) {
      slurm_error("postern: --%s needs --container-image", options[i].name);
      return kFailed;
    }
  }
  for (size_t i = 0; i < sizeof kPairs / sizeof *kPairs; ++i) {
    if (given[kPairs[i][0]] != NULL && given[kPairs[i][1]] != NULL) {
      slurm_error("postern: --%s and --%s exclude each other", options[kPairs[i][0]].name,
                  options[kPairs[i][1]].name);
      return kFailed;
    }
  }
  return ESPANK_SUCCESS;
}

// ------------------------------------------------------------------ from here on as the user

struct words {
  spank_t spank;
  int count;
  bool failed;
};

static void put(spank_t spank, const char* name, const char* value, bool* failed) {
  if (spank_setenv(spank, name, value, 1) != ESPANK_SUCCESS) {
    *failed = true;
  }
}

static void add(struct words* words, const char* word) {
  char name[sizeof POSTERN_TASK_WORD + 16];
  snprintf(name, sizeof name, POSTERN_TASK_WORD "%d", words->count++);
  put(words->spank, name, word, &words->failed);
}

static void add_option(struct words* words, const char* name, int which) {
  if (given[which] != NULL) {
    add(words, name);
    add(words, given[which]);
  }
}

static void add_flag(struct words* words, const char* name, int which) {
  if (given[which] != NULL) {
    add(words, name);
  }
}

// --container-env: POSTERNENV_NAME sets NAME inside, over what the image sets. postern evaluates
// such values as between double quotes: what is special there is escaped.
static void forward(struct words* words, const char* name) {
  const size_t kMost = 128 * 1024;  // execve(2), MAX_ARG_STRLEN
  char* value = malloc(kMost);
  char* escaped = malloc(2 * kMost);
  char* full = malloc(strlen(name) + sizeof "POSTERNENV_");
  if (value == NULL || escaped == NULL || full == NULL) {
    words->failed = true;
  } else if (spank_getenv(words->spank, name, value, (int)kMost) == ESPANK_SUCCESS) {
    size_t length = 0;
    for (const char* c = value; *c != '\0'; ++c) {
      if (*c == '$' || *c == '`' || *c == '\\') {
        escaped[length++] = '\\';
      }
      escaped[length++] = *c;
    }
    escaped[length] = '\0';
    sprintf(full, "POSTERNENV_%s", name);
    put(words->spank, full, escaped, &words->failed);
  }
  free(value);
  free(escaped);
  free(full);
}

static void forward_all(struct words* words) {
  char* names = given[kEnv] != NULL ? strdup(given[kEnv]) : NULL;
  char* rest = NULL;
  for (char* name = names != NULL ? strtok_r(names, ",", &rest) : NULL; name != NULL;
       name = strtok_r(NULL, ",", &rest)) {
    forward(words, name);
  }
  free(names);
}

int slurm_spank_task_init(spank_t spank, int argc, char** argv) {
  if (given[kImage] == NULL) {
    return ESPANK_SUCCESS;
  }
  int count = 0;
  char** task = NULL;
  if (spank_get_item(spank, S_JOB_ARGV, &count, &task) != ESPANK_SUCCESS || count < 1) {
    slurm_error("postern: the task has no program");
    return kFailed;
  }
  const char* program = "postern";
  for (int i = 0; i < argc; ++i) {
    if (strncmp(argv[i], "postern=", 8) == 0) {
      program = argv[i] + 8;
    }
  }
  struct words words = {.spank = spank};
  add(&words, program);
  add(&words, given[kEntrypoint] != NULL ? "run" : "exec");
  add_option(&words, "--bind", kMounts);
  add_option(&words, "--cwd", kWorkdir);
  add_flag(&words, "--fakeroot", kRemapRoot);
  add_flag(&words, "--no-home", kNoMountHome);
  add_flag(&words, "--writable-tmpfs", kWritable);
  add(&words, "--");
  add(&words, given[kImage]);
  add(&words, task[0]);
  forward_all(&words);
  // The list is Slurm's; its first word is replaced in place, because nothing can be put before it.
  char* launcher = strdup(POSTERN_TASK_PROGRAM);
  if (words.failed || launcher == NULL) {
    slurm_error("postern: the task's environment has no room for its options");
    return kFailed;
  }
  task[0] = launcher;
  return ESPANK_SUCCESS;
}
