/* io.h: all that reads and writes files. */
#ifndef LORIKEET_IO_H
#define LORIKEET_IO_H
#include <lorikeet/file.h>
#include <lorikeet/idx.h>
#include <lorikeet/json.h>
#include <lorikeet/safetensors.h>
#endif
