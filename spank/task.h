// What the plugin and postern-task agree upon.
#pragma once

// POSTERN_TASK_WORD_0, _1, …: the words that stand before those of the task.
#define POSTERN_TASK_WORD "POSTERN_TASK_WORD_"
