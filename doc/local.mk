# doc/: manual pages and the sources of pictures.
