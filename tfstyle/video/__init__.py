"""Films: reading, writing, motion, both ways to stylize them, and films of a run.

``stylize`` goes through the frames of a film (``film_files``, by ``ffmpeg``), follows
their motion (``flow``) and keeps ``finished_frames``. ``run_film`` shows how one
picture came about.
"""
